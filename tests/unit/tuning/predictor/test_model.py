"""The predictor on latencies that a known law made, with noise: error, intervals, refusals, determinism."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import AddWorkload, Conv2dWorkload, FloatWorkload, LatencyKey, Workload, padded_channels
from tvm_mpq.targets import resolve
from tvm_mpq.tuning.predictor import Entry, MachineFacts, Predictor, heldout

MACHINE = MachineFacts.of(resolve("znver4"))
CONV, FLOAT_CONV, ADD = "qu8_qs8_s32_conv2d__avx512vnni", "f32_conv2d__generic", "qu8_qu8_f32_add__generic"
TILES = {
    CONV: {"rows": 1, "columns": 7, "blocks": 2, "order": "channels"},
    FLOAT_CONV: {"lanes": 16, "rows": 1, "cols": 7, "blocks": 2},
}
"""Knobs of convolutions."""
TABLE_ADD = "qu8_qu8_f32_add__avx512vbmi"
NOISE = 0.03
"""Standard deviation of the logarithm of the noise on invented latencies."""


def entry(workload: Workload, precision: str = "w8a8", family: str = CONV) -> Entry:
    text = json.dumps(TILES.get(family, {}), sort_keys=True)
    bits = 32 if precision == "fp32" else 8
    return Entry(LatencyKey(workload.key, precision, bits, family, text, "here"), MACHINE)


def conv(rng: np.random.Generator, *, most: int = 512) -> Conv2dWorkload:
    size = int(rng.choice([7, 14, 28, 56]))
    ci, co = (int(2 ** rng.uniform(4, math.log2(most))) for _ in range(2))
    k = int(rng.choice([1, 3]))
    return Conv2dWorkload(1, size, size, ci, co, (k, k), padding=(k // 2,) * 4)


def entries(rng: np.random.Generator, count: int) -> list[Entry]:
    """Convolutions of two families and additions, tiles of 7 columns x 2 blocks."""
    found = []
    for i in range(count):
        w = conv(rng)
        if i % 3 == 2:
            found.append(entry(AddWorkload((1, w.in_height, w.in_width, w.in_channels)), family=ADD))
        else:
            precision, family = (("w8a8", CONV), ("fp32", FLOAT_CONV))[i % 3]
            found.append(entry(w, precision, family))
    return found


def law_us(e: Entry) -> float:
    """A staircase in channels and columns, with a bump for small maps that no sum of counts explains."""
    w = e.workload
    if isinstance(w, AddWorkload):
        return 0.3 + 4e-5 * math.prod(w.shape[:-1]) * padded_channels(w.shape[-1])
    assert isinstance(w, Conv2dWorkload)
    integer = not e.precision.is_float
    depth = padded_channels(w.in_channels) / 4 if integer else w.in_channels
    vectors = -(-w.out_channels // 32) * 2
    positions = w.out_height * -(-w.out_width // 7) * 7
    products = positions * vectors * w.kernel[0] * w.kernel[1] * depth
    bump = 1.25 if w.in_height <= 14 else 1.0
    return 0.5 + bump * 1.6e-4 * products + 1e-3 * positions * vectors


def measured(rng: np.random.Generator, found: Sequence[Entry], noise: float = NOISE) -> np.ndarray:
    return np.array([law_us(e) for e in found]) * np.exp(noise * rng.standard_normal(len(found)))


@pytest.fixture(scope="module")
def trained() -> tuple[Predictor, list[Entry]]:
    rng = np.random.default_rng(5)
    found = entries(rng, 210)
    return Predictor(found, measured(rng, found)), found


@pytest.fixture(scope="module")
def unseen(trained: tuple[Predictor, list[Entry]]) -> list[Entry]:
    rng = np.random.default_rng(6)
    seen = {e.shape_group for e in trained[1]}
    return [e for e in entries(rng, 300) if e.shape_group not in seen]


def test_error_on_unseen_shapes(trained, unseen) -> None:
    """Three per cent of noise, and at most as much again of its own."""
    found = trained[0].predict(unseen)
    kept = [(p.median_us, law_us(e)) for p, e in zip(found, unseen, strict=True) if p.refused is None]
    guess, truth = np.array(kept).T
    assert len(kept) > 0.9 * len(unseen)
    assert np.abs(guess / truth - 1).mean() < 2 * NOISE
    assert heldout.spearman(guess, truth) > 0.99


def test_stated_errors_are_those_of_unseen_shapes(trained, unseen) -> None:
    """Held out, the predictor says of itself what fresh shapes then show."""
    predictor, _ = trained
    found = predictor.predict(unseen)
    rng = np.random.default_rng(7)
    truth = measured(rng, unseen)
    kept = [i for i, p in enumerate(found) if p.refused is None]
    off = np.mean([abs(found[i].median_us / truth[i] - 1) for i in kept])
    assert predictor.held_out.overall.mape == pytest.approx(off, rel=0.4)
    assert set(predictor.held_out.by_class) == {"all", "add", "conv", "pointwise"}


def test_intervals_hold_what_they_promise(trained, unseen) -> None:
    rng = np.random.default_rng(8)
    found = trained[0].predict(unseen)
    truth = measured(rng, unseen)
    inside = [p.low_us <= t <= p.high_us for p, t in zip(found, truth, strict=True) if p.refused is None]
    assert 0.82 <= np.mean(inside) <= 0.98  # 0.9 on average over training sets; 300 entries scatter by 0.02
    for p in found:
        if p.refused is None:
            assert p.high_us == pytest.approx(p.median_us * (1 + p.stated_error))
            assert p.low_us == pytest.approx(p.median_us / (1 + p.stated_error))


def test_intervals_are_wider_far_from_the_data(trained) -> None:
    predictor, found = trained
    near = next(e for e in found if e.operator_class == "pointwise" and e.key.family == CONV)
    far = Conv2dWorkload(1, 100, 100, 20, 200, (1, 1))
    first, second = predictor.predict([near, entry(far)])
    assert second.refused is None and second.stated_error > 1.2 * first.stated_error


def test_padding_makes_a_staircase() -> None:
    """33 channels are stored as 48: the predictor knows before it has seen any such layer."""
    rng = np.random.default_rng(9)
    found = [
        entry(Conv2dWorkload(1, s, s, c, c, (3, 3), padding=(1,) * 4))
        for s in (7, 14, 28, 56) for c in (16, 32, 48, 64, 96, 128, 160, 192, 256)
    ]  # fmt: skip
    predictor = Predictor(found, measured(rng, found, 0.01))
    a, b, c = (entry(Conv2dWorkload(1, 28, 28, ci, 64, (3, 3), padding=(1,) * 4)) for ci in (32, 33, 48))
    p, q, r = (x.median_us for x in predictor.predict([a, b, c]))
    assert q / p > 1.3 and q == pytest.approx(r, rel=0.05)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (entry(AddWorkload((1, 8, 8, 64), "silu"), family=TABLE_ADD), f"0 shapes of {TABLE_ADD} were measured"),
        (entry(AddWorkload((1, 900, 900, 1024)), family=ADD), "times above all that was measured"),
        (entry(AddWorkload((1, 1, 1, 16)), family=ADD), "times below all that was measured"),
        (entry(FloatWorkload("abc", "softmax(x, axis=1)")), "without a template"),
    ],
)
def test_far_outside_is_refused(trained, odd: Entry, reason: str) -> None:
    prediction = trained[0].predict([odd])[0]
    assert prediction.refused is not None and reason in prediction.refused
    assert math.isnan(prediction.median_us) and math.isnan(prediction.stated_error)


def test_inside_the_range_but_far_from_everything_is_refused() -> None:
    """Small maps with many channels and large maps with few were measured, and nothing between."""
    rng = np.random.default_rng(10)

    def square(side: int, channels: int) -> Entry:
        w = Conv2dWorkload(1, side, side, channels, channels, (3, 3), padding=(1,) * 4)
        return entry(w)

    found = [square(side, c) for c in (896, 1024, 1152) for side in (7, 8, 9)]
    found += [square(side, c) for c in (16, 20) for side in (180, 200, 224, 256)]
    refused = Predictor(found, measured(rng, found)).predict([square(40, 128)])[0].refused
    assert refused is not None and "octaves away" in refused


def test_the_same_measurements_give_the_same_numbers(trained, unseen) -> None:
    predictor, found = trained
    rng = np.random.default_rng(5)
    assert [e.key for e in entries(rng, 210)] == [e.key for e in found]
    times = measured(rng, found)
    order = np.random.default_rng(0).permutation(len(found))
    again = Predictor([found[i] for i in order], times[order])
    assert again.predict(unseen[:50]) == predictor.predict(unseen[:50])
    assert again.held_out == predictor.held_out


@pytest.mark.parametrize("count", [0, 1, 8])
def test_too_few_entries_predict_nothing(count: int) -> None:
    rng = np.random.default_rng(11)
    found = entries(rng, count)
    predictor = Predictor(found, measured(rng, found))
    assert "10 are needed" in str(predictor.predict(entries(rng, 3))[0].refused)


@pytest.mark.parametrize("bad", [[1.0, 0.0], [1.0, math.nan], [1.0, math.inf], [1.0]])
def test_latencies_must_be_numbers(bad: list[float]) -> None:
    found = entries(np.random.default_rng(0), 2)
    with pytest.raises(InvalidValueError, match="one finite latency above 0"):
        Predictor(found, bad)


def test_errors_are_plain_json(trained) -> None:
    text = json.dumps(trained[0].held_out.to_json(), allow_nan=False)
    assert json.loads(text)["by_class"]["conv"]["count"] > 20
    assert "held-out error" in str(trained[0].held_out)


def test_a_shape_never_teaches_about_itself(trained) -> None:
    """Entries of one shape share a fold, whatever their precision, output format and activation."""
    w = Conv2dWorkload(1, 14, 14, 64, 64, (3, 3))
    same = [entry(w), entry(w, "fp32", FLOAT_CONV), entry(dataclasses.replace(w, residual=True, activation="relu"))]
    other = entry(dataclasses.replace(w, in_channels=80))
    groups = [e.shape_group for e in (*same, other)]
    assert len(set(groups[:3])) == 1 and groups[3] != groups[0]
    names = [e.shape_group for e in trained[1]]
    fold = heldout.folds(names)
    assert len({(n, f) for n, f in zip(names, fold, strict=True)}) == len(set(names))
    assert set(fold.tolist()) == set(range(heldout.FOLDS))


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 1, 1, 2, 3], [1, 2, 3, 4, 5], 0.8944272),
    ],
)
def test_spearman(a: list[float], b: list[float], rho: float) -> None:
    assert heldout.spearman(np.array(a, float), np.array(b, float)) == pytest.approx(rho)
