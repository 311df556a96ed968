"""Parts of the predictor: keys read back, work counted, prices fitted, entries chosen."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_mpq.errors import FileFormatError
from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.schema import (
    ActivationWorkload,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    FloatWorkload,
    LatencyKey,
    MultiplyWorkload,
    NormWorkload,
    Pool2dWorkload,
    Precision,
    Workload,
)
from tvm_mpq.targets import ROWS, resolve
from tvm_mpq.tuning.predictor import Entry, MachineFacts, Predictor, most_informative
from tvm_mpq.tuning.predictor.entry import read_workload
from tvm_mpq.tuning.predictor.law import Law, columns
from tvm_mpq.tuning.predictor.traffic import TERMS, terms

MACHINE = MachineFacts.of(resolve("znver4"))
CONV = Conv2dWorkload(1, 28, 28, 64, 96, (3, 3), padding=(1, 1, 1, 1), residual=True, activation="clip:0.0:6.0")
WORKLOADS: list[Workload] = [
    CONV,
    dataclasses.replace(CONV, groups=32, activation="leaky_relu:0.01", residual=False),
    dataclasses.replace(CONV, input_dilation=(2, 3)),
    Pool2dWorkload("avg_valid", 1, 28, 28, 64, (3, 3), (2, 2), (1, 1, 1, 1), 14, 14),
    AddWorkload((1, 8, 8, 16), "relu"),
    MultiplyWorkload((1, 8, 8, 16), True),
    ConcatWorkload(64, (16, 32)),
    ConcatWorkload(64, (16,)),
    ActivationWorkload((1, 8, 8, 16), "hard_swish"),
    CopyWorkload((1, 8, 8, 16), (1, 4, 4, 32), (0, 0, 0, 0), (1, 2, 2, 1), (1, 4, 4, 16), (0, 0, 0, 8)),
    ConvertWorkload((1, 8, 8, 16), 32, 8, True),
    FloatWorkload("0f3a", "softmax(axis=1, shape=(1, 10))"),
]

FUSED: list[Workload] = [
    AttentionWorkload(
        *(1, 3, 19, 19, 16, 24, 0.25),
        sources=((1, 19, 144), (1, 19, 72)),
        q=(0, 0, 2736, 16, 144, 1),
        k=(0, 48, 2736, 16, 144, 1),
        v=(1, 0, 1368, 24, 72, 1),
    ),
    NormWorkload((1, 197, 192), 1e-06),
]
"""What passes fuse: no record holds their times."""


def entry(w: Workload, precision: str = "w8a8", knobs: dict | None = None) -> Entry:
    """Of the default kernel, with other knobs perhaps. A conversion has the precision of its integer side."""
    out_bits = 32 if precision == "fp32" else 8
    if isinstance(w, ConvertWorkload):
        precision, out_bits = f"w{min(w.from_bits, w.to_bits)}a{min(w.from_bits, w.to_bits)}", w.to_bits
    kernel = default_kernel(Request(w, Precision.parse(precision), out_bits, MACHINE.features))
    return named(w, precision, out_bits, kernel.family.name, {**kernel.knobs, **(knobs or {})})


def named(w: Workload, precision: str, out_bits: int, family: str, knobs: dict | None = None) -> Entry:
    return Entry(LatencyKey(w.key, precision, out_bits, family, json.dumps(knobs or {}), "here"), MACHINE)


@pytest.mark.parametrize("workload", [*WORKLOADS, *FUSED], ids=lambda w: w.kind)
def test_a_key_and_json_are_read_back(workload: Workload) -> None:
    assert read_workload(workload.key) == workload
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload


@pytest.mark.parametrize("workload", FUSED, ids=lambda w: w.kind)
def test_work_of_what_passes_fuse(workload: Workload) -> None:
    found = entry(workload, "fp32")
    assert found.predictable and all(math.isfinite(x) and x >= 0 for x in terms(found))
    assert found.work.products > 0 and found.work.in_bytes > 0 and found.work.out_bytes > 0


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (named(CONV, "w8a8", 8, "int_conv_of_long_ago"), "'int_conv_of_long_ago' does not serve"),
        (named(CONV, "w8a8", 8, "qu8_qs8_s32_conv2d__neon"), "'qu8_qs8_s32_conv2d__neon' does not serve"),
        (
            named(CONV, "w8a8", 8, "qu8_qs8_s32_conv2d__avx512vnni", {"rows": 1, "lanes": 16}),
            "has the knobs ['blocks', 'columns', 'order', 'rows'] (got ['lanes', 'rows'])",
        ),
        (named(WORKLOADS[-1], "fp32", 32, "float"), "without a template"),
        (Entry(LatencyKey("dance(a=1)", "w8a8", 8, "f", "{}", "here"), MACHINE), "not the key of a workload"),
        (Entry(LatencyKey(CONV.key, "w99a8", 8, "f", "{}", "here"), MACHINE), "got 'w99a8'"),
    ],
)
def test_what_today_has_no_kernel_for_is_refused(odd: Entry, reason: str, rng: np.random.Generator) -> None:
    """A record of another version, or of another machine."""
    assert not odd.predictable
    found = _some(rng, 30)
    predictor = Predictor(found, columns(found).sum(axis=1))
    refused = predictor.predict([found[0], odd])
    assert refused[0].refused is None and reason in str(refused[1].refused)


@pytest.mark.parametrize(
    "text",
    ["", "add", "dance(a=1)", "add(shape=1x2)", "add(shape=x,activation=relu)", "add(shape=01,activation=relu)"],
)
def test_another_text_is_not(text: str) -> None:
    with pytest.raises(FileFormatError, match="not the key of a workload"):
        read_workload(text)


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if w.kind != "float"], ids=lambda w: w.kind)
@pytest.mark.parametrize("precision", ["w8a8", "fp32"])
def test_work_is_finite_and_some(workload: Workload, precision: str) -> None:
    found = entry(workload, precision)
    work = found.work
    assert all(math.isfinite(x) and x >= 0 for x in terms(found))
    assert all(math.isfinite(x) and x >= 0 for x in dataclasses.astuple(work) if not isinstance(x, tuple))
    assert work.products > 0 and work.in_bytes > 0 and work.out_bytes > 0 and work.stores > 0


@given(channels=st.integers(5, 300), other=st.integers(5, 300))
def test_integer_work_follows_padded_channels(channels: int, other: int) -> None:
    def macs(c: int) -> float:
        return entry(dataclasses.replace(CONV, in_channels=c)).work.macs

    assert (macs(channels) == macs(other)) == (-(-channels // 16) == -(-other // 16))


def test_a_transposed_convolution_is_one_of_each_phase() -> None:
    """k4s2 is four 2x2 convolutions, each of a quarter of the outputs with a quarter of the weights."""
    w = Conv2dWorkload(1, 24, 24, 64, 32, (4, 4), padding=(2, 2, 2, 2), input_dilation=(2, 2))
    phase = Conv2dWorkload(4, 24, 24, 64, 32, (2, 2), padding=(1, 1, 0, 0))
    knobs = {"columns": 6, "rows": 2, "blocks": 2}
    whole, parts = (entry(x, knobs=knobs).work for x in (w, phase))
    assert (whole.products, whole.macs, whole.tiles) == (parts.products, parts.macs, parts.tiles)
    assert whole.weight_bytes == 4 * parts.weight_bytes and whole.out_bytes == parts.out_bytes


def test_no_column_is_computed_twice() -> None:
    """29 columns in tiles of 7 are four of 6 and one of 5."""
    knobs = {"columns": 7, "rows": 1, "blocks": 2}

    def products(width: int) -> float:
        w = dataclasses.replace(CONV, in_width=width)
        return entry(w, knobs=knobs).work.products

    assert 29 * products(35) == 35 * products(29) and 35 * products(36) == 36 * products(35)


def test_a_cache_saves_what_passes_again() -> None:
    """Half the first-level cache may hold an operand; what is larger comes again from the second level each time."""
    small, large = (dataclasses.replace(CONV, in_channels=c, out_channels=c, residual=False) for c in (32, 256))
    by_channels = {"rows": 1, "columns": 7, "blocks": 2, "order": "channels"}
    plane, weights = 28 * 28, 9 * 32 * 32  # bytes of a channel and of the smaller layer's weights
    assert _l2_bytes(small, by_channels) == plane * 32 + weights  # one tile of channels
    assert _l2_bytes(large, by_channels) == plane * 256 * 8 + 28 * 4 * 9 * 256 * 256
    by_positions = {**by_channels, "order": "positions"}
    assert _l2_bytes(large, by_positions) == plane * 256 + 28 * 4 * 9 * 256 * 256
    huge = dataclasses.replace(CONV, in_channels=512, out_channels=512, residual=False)
    assert terms(entry(huge))[TERMS.index("far_bytes")] == 2 * plane * 512 + 9 * 512 * 512 - (1 << 20)


def _l2_bytes(w: Workload, knobs: dict) -> float:
    return terms(entry(w, knobs=knobs))[TERMS.index("l2_bytes")]


def test_machine_of_a_row() -> None:
    by_name = {row.name: row for row in ROWS}
    assert MachineFacts.of(by_name["znver4"], 2) == MachineFacts(
        32 << 10, 1 << 20, frozenset(by_name["znver4"].isa_features), 2
    )
    assert MachineFacts.of(by_name["znver4"]).lanes == 16
    assert MachineFacts.of(by_name["x86-avx2"]).lanes == 8
    assert MachineFacts.of(by_name["cortex-a53"]).lanes == 4


def test_strata_and_classes() -> None:
    linear = Conv2dWorkload(1, 1, 4, 64, 64, (1, 1))
    kinds = {
        "conv": CONV,
        "pointwise": dataclasses.replace(linear, in_height=4),
        "linear": linear,
        "depthwise": dataclasses.replace(CONV, groups=64, out_channels=64),
        "grouped": dataclasses.replace(CONV, groups=2),
        "add": AddWorkload((1, 2, 3)),
    }
    assert {name: entry(w).operator_class for name, w in kinds.items()} == {name: name for name in kinds}
    assert entry(linear).stratum != entry(kinds["pointwise"]).stratum == entry(CONV).stratum
    there, back = (entry(ConvertWorkload((1, 8), a, b)) for a, b in ((32, 8), (8, 32)))
    assert there.stratum != back.stratum and there.shape_group == back.shape_group


def _some(rng: np.random.Generator, count: int) -> list[Entry]:
    found = []
    for _ in range(count):
        size, (ci, co) = int(rng.integers(4, 60)), rng.integers(8, 400, 2)
        w = Conv2dWorkload(1, size, size, int(ci), int(co), (3, 3), padding=(1,) * 4)
        found.append(entry(w, knobs={"blocks": 2, "columns": 7, "rows": 1}))
    return found


def test_the_law_finds_prices_again(rng: np.random.Generator) -> None:
    """Latencies that are such a sum are met, those of other shapes too; no price is negative."""
    found = _some(rng, 120)
    prices = np.array([1.0, 0.7, 0.0, 2.0, 0.5, 1.5, 1.0, 0.0, 3.0])
    times = columns(found) @ prices
    law = Law(found[:80], times[:80])
    off = np.abs(law(found[80:]) / times[80:] - 1)
    assert off.mean() < 0.02 and off.max() < 0.15  # the pull towards the roofline costs this much
    assert all((p >= 0).all() for p in law._prices.values())


def test_a_law_of_few_samples_is_the_scaled_roofline(rng: np.random.Generator) -> None:
    found = _some(rng, 40)
    times = 3 * columns(found).sum(axis=1)
    law = Law(found[:2], times[:2])
    assert np.abs(law(found[2:]) / times[2:] - 1).max() < 1e-6


def test_every_stratum_is_touched_first(rng: np.random.Generator) -> None:
    many = _some(rng, 30)
    others = [entry(AddWorkload((1, 8, 8, 8 * i))) for i in range(1, 4)]
    others += [entry(ConvertWorkload((1, 8, 8, 8 * i), 32, 8)) for i in range(1, 4)]
    missing = many + others
    taken = most_informative([], missing, 3 / len(missing))
    assert {missing[i].stratum for i in taken} == {e.stratum for e in missing}
    known = [missing[i] for i in taken]
    rest = [e for e in missing if e not in known]
    following = most_informative(known, rest, 1.0)
    assert rest[following[0]].stratum == _some(rng, 1)[0].stratum  # the widest stratum has the farthest entries


@pytest.mark.parametrize(("count", "fraction", "wanted"), [(10, 0.3, 3), (10, 0.31, 4), (7, 1.0, 7), (0, 0.5, 0)])
def test_how_many_are_taken(rng: np.random.Generator, count: int, fraction: float, wanted: int) -> None:
    missing = _some(rng, count)
    taken = most_informative([], missing, fraction)
    assert len(taken) == len(set(taken)) == wanted


def test_equal_entries_are_all_taken(rng: np.random.Generator) -> None:
    same = _some(rng, 1) * 3
    assert sorted(most_informative(same, same, 1.0)) == [0, 1, 2]


def test_order_of_the_list_does_not_matter(rng: np.random.Generator) -> None:
    missing = _some(rng, 10)
    missing += [entry(dataclasses.replace(e.workload, activation="relu"), knobs=dict(e.knobs)) for e in missing]
    chosen = [missing[i].key for i in most_informative([], missing, 0.4)]
    turned = missing[::-1]
    assert [turned[i].key for i in most_informative([], turned, 0.4)] == chosen


def test_chosen_entries_teach_more_than_random_ones() -> None:
    """The same number of measurements, ten tables: a smaller error on what was not measured, on average."""
    spread, lucky = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        missing = _some(rng, 150)
        shares = columns(missing)
        times = shares @ np.array([1.0, 0.7, 0.2, 2.0, 0.5, 1.5, 1.0, 2.0, 3.0])
        times = times * np.exp(0.02 * rng.standard_normal(len(missing)))
        picks = {"spread": most_informative([], missing, 0.15), "lucky": rng.permutation(len(missing))[:23].tolist()}
        for name, picked in picks.items():
            predictor = Predictor([missing[i] for i in picked], times[picked])
            rest = [i for i in range(len(missing)) if i not in set(picked)]
            found = predictor.predict([missing[i] for i in rest])
            off = [1.0 if p.refused else abs(p.median_us / times[i] - 1) for p, i in zip(found, rest, strict=True)]
            (spread if name == "spread" else lucky).append(np.mean(off))
    assert len(spread) == len(lucky) == 10
    assert np.mean(spread) < 0.9 * np.mean(lucky)
