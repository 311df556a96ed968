"""The judge, with networks that are made up: logits for each image, and noise for each plan."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mpq_testing.regret import regrets
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.judge import LOOKS, MIX, MIXED_RUNS, Judge, OutputsOf, mixed, rows_of, shuffled
from tvm_mpq.select.paired import CONFIDENCE, TEMPERATURES, softmax

CLASSES = 10


class Net:
    """A linear network x -> gain * x @ W + noise that belongs to the image, and a count of the images it was run on."""

    def __init__(self, gain: float = 4.0, spread: float = 0.0, bias: float = 0.0) -> None:
        self.gain, self.spread, self.bias, self.images = gain, spread, bias, 0

    def __call__(self, data: Dataset) -> list[npt.NDArray[Any]]:
        outputs = []
        for sample in data:
            x = sample["x"]
            noise = [np.random.default_rng(zlib.crc32(row.tobytes())).normal(size=CLASSES) for row in x]
            outputs.append((self.gain * x + self.spread * np.stack(noise) + self.bias).astype(np.float32))
            self.images += len(x)
        return outputs


def images(count: int, seed: int = 0, batch: int = 1, labels: bool = True, sure: float = 0.0) -> Dataset:
    """One score per class; the label is the largest. sure: by how much it leads, at least."""
    x = np.random.default_rng(seed).normal(size=(count, CLASSES)).astype(np.float32)
    best = x.argmax(axis=1)
    x[np.arange(count), best] += sure
    return Dataset({"x": x}, best if labels else None, batch)


def judge(data: Dataset, allowed: float | None = None, fp32: OutputsOf | None = None, **more: Any) -> Judge:
    return Judge(fp32 or Net(), data, classifies=True, metric="kl", allowed=allowed, **more)


def test_fp32_itself_loses_nothing_and_is_told_at_once() -> None:
    net = Net()
    found = judge(images(500), allowed=0.0)(net)
    assert (found.drop.estimate, found.drop.high, found.loss) == (0.0, 0.0, 0.0)
    assert net.images == LOOKS[0]


def test_clear_plans_are_done_with_early_and_close_ones_are_not() -> None:
    data = images(800, labels=False)
    asked = judge(data, new=True)
    truth = asked(Net(spread=1.0)).drop.estimate
    for allowed, most in ((truth / 9, LOOKS[0]), (truth * 9, LOOKS[0]), (truth * 1.02, len(data))):
        net = Net(spread=1.0)
        found = judge(data, allowed, new=True)(net)
        assert net.images == found.drop.images == most
        assert found.keeps(allowed) == (allowed > 2 * truth)
        assert judge(data, allowed=123.0, new=True)(net, allowed) == found, "what is asked for one plan counts"


def test_without_a_limit_all_images_are_run() -> None:
    net = Net(spread=0.1)
    judge(images(400))(net)
    assert net.images == 400


def test_labels_that_fp32_misses_are_new_images() -> None:
    data = images(200)
    wrong = Dataset(data.arrays, np.where(np.arange(200) < 30, (data.labels + 1) % CLASSES, data.labels), 1)  # type: ignore[operator]
    basis = judge(wrong).basis
    assert (basis.right, basis.trained_on, basis.mixed, basis.images) == (0.85, False, 0, 200)


@pytest.mark.parametrize(("gain", "dearer"), [(0.5, True), (30.0, False)])
def test_a_network_is_believed_as_far_as_it_is_right(gain: float, dearer: bool) -> None:
    """One that is hardly sure and nearly always right: a changed class costs nearly all of it. One that is always sure
    and often wrong: it costs little. Without labels either would be taken at its word."""
    fp32, plan = Net(gain), Net(gain, spread=0.1 * gain)
    data = images(300)
    wrong = np.arange(300) < (9 if dearer else 120)
    odd = Dataset(data.arrays, np.where(wrong, np.argsort(data.arrays["x"], axis=1)[:, -2], data.labels), 1)  # type: ignore[arg-type]
    told, blind = judge(odd, fp32=fp32), judge(Dataset(data.arrays, None, 1), fp32=fp32, new=True)
    assert blind.basis.temperature == 1.0 and not told.basis.trained_on
    ratio = told(plan).drop.estimate / blind(plan).drop.estimate
    assert (told.basis.temperature < 0.7 and ratio > 1.5) if dearer else (told.basis.temperature > 2 and ratio < 0.7)


def test_images_that_fp32_knows_by_heart_are_mixed() -> None:
    """On them no plan loses anything; on pairs of them calls are close, as on new images."""
    data = images(300, sure=3.0)
    known, new = judge(data), judge(data, new=True)
    assert known.basis.trained_on and known.basis.mixed == 300 and not new.basis.trained_on
    plan = Net(spread=3.0)
    assert new(plan).drop.high < 1 and known(plan).drop.estimate > 10 * new(plan).drop.estimate


@pytest.mark.parametrize("labels", [True, False])
def test_pairs_are_right_where_the_first_image_is(labels: bool) -> None:
    """A network ten times surer than the pairs allow is cooled down by them, whether labels were given or its own."""
    data = images(900, sure=1.0, labels=labels)
    usual, surer = judge(data, fp32=Net(gain=6.0)), judge(data, fp32=Net(gain=60.0))
    assert usual.basis.mixed == surer.basis.mixed == MIXED_RUNS
    heats = usual.basis.temperature, surer.basis.temperature
    assert heats[1] == pytest.approx(min(10 * heats[0], TEMPERATURES[-1]), rel=0.05) and heats[1] > 1.5


def test_without_labels_the_probability_tells() -> None:
    assert judge(images(100, labels=False, sure=6.0)).basis.trained_on
    assert not judge(images(100, labels=False), fp32=Net(gain=1.0)).basis.trained_on


def test_pairs_of_integers_cannot_be_mixed() -> None:
    assert mixed(Dataset({"x": np.zeros((5, 3), np.int64)}, None, 1), 9) is None
    assert mixed(images(1), 9) is None


def test_pairs_are_two_different_images_and_always_the_same() -> None:
    data = images(50, batch=2)
    pairs = mixed(data, 9)
    assert pairs is not None and len(pairs) == 9 and pairs.arrays["x"].dtype == np.float32
    used = data.head(9).arrays["x"]
    others = (pairs.arrays["x"] - MIX * used) / (1 - MIX)
    nearest = np.abs(others[:, None] - used[None]).sum(axis=2)
    assert (nearest.min(axis=1) < 1e-4).all() and (nearest.argmin(axis=1) != np.arange(18)).all()
    np.testing.assert_array_equal(mixed(data, 9).arrays["x"], pairs.arrays["x"])  # type: ignore[union-attr]
    assert len(mixed(images(2 * MIXED_RUNS), MIXED_RUNS)) == MIXED_RUNS  # type: ignore[arg-type]


def test_the_order_is_random_but_always_the_same() -> None:
    data = images(60)
    first, second = shuffled(data, 40), shuffled(data, 40)
    np.testing.assert_array_equal(first.arrays["x"], second.arrays["x"])
    kept = data.head(40).arrays["x"]
    assert not np.array_equal(first.arrays["x"], kept)
    np.testing.assert_array_equal(np.sort(first.arrays["x"], axis=0), np.sort(kept, axis=0))
    assert first.labels is not None and (first.labels == first.arrays["x"].argmax(axis=1)).all()


def test_the_bound_holds_on_new_images() -> None:
    """100 draws of 150 images, of a plan that loses just more than is allowed; 3 deviations of a share of 0.1: 0.09."""
    many = images(40_000, seed=99, batch=1000)
    before, after = (rows_of(net(many)) for net in (Net(), Net(spread=1.0)))
    allowed = 0.999 * 100 * float(regrets(before, after).mean())
    kept = [judge(images(150, seed), allowed, new=True)(Net(spread=1.0)).keeps(allowed) for seed in range(100)]
    assert sum(kept) / 100 <= 1 - CONFIDENCE + 0.09


def test_one_image_that_loses_much_is_chance() -> None:
    """One changed class of 200 is half a point seen, which the noise of all images together does not show."""
    data = images(200)

    def unlucky(part: Dataset) -> list[npt.NDArray[Any]]:
        outputs = Net()(part)
        for x, output in zip(part.arrays["x"], outputs, strict=True):
            if np.array_equal(x, data.arrays["x"][7]):
                output[0, output[0].argmin()] += 100
        return outputs

    assert judge(data)(unlucky).drop.estimate < 0.45


def test_outputs_that_are_not_finite_lose_everything() -> None:
    found = judge(images(300), allowed=1.0)(Net(bias=math.nan))
    assert math.isinf(found.drop.high) and math.isinf(found.loss) and not found.keeps(1e9)


@pytest.mark.parametrize("sure", [0.0, 8.0])
def test_a_softmax_at_the_end_changes_nothing(sure: float) -> None:
    """What is asked of probabilities is asked of the logits behind them, also where images look trained on."""

    def through_softmax(net: Net) -> OutputsOf:
        return lambda data: [softmax(y.astype(np.float64)).astype(np.float32) for y in net(data)]

    data = images(400, sure=sure)
    plain, ended = judge(data), judge(data, fp32=through_softmax(Net()))
    assert (plain.basis.trained_on, plain.basis.mixed) == (ended.basis.trained_on, ended.basis.mixed)
    assert ended.basis.sure == pytest.approx(plain.basis.sure, abs=1e-3)
    wanted, found = plain(Net(spread=1.0)), ended(through_softmax(Net(spread=1.0)))
    assert found.loss == pytest.approx(wanted.loss, rel=1e-3)
    assert found.drop.estimate == pytest.approx(wanted.drop.estimate, rel=1e-3)
    assert found.drop.high == pytest.approx(wanted.drop.high, rel=1e-3)


def test_what_is_no_probability_everywhere_is_none_anywhere() -> None:
    """The first look sees 25 images whose logits happen to be positive and to add up to 1: still logits."""
    data = images(200)
    x = data.arrays["x"].copy()
    x[: LOOKS[0]] = softmax(x[: LOOKS[0]].astype(np.float64)) / 4
    x[: LOOKS[0], 0] += 0.75
    found = judge(Dataset({"x": x}, None, 1), allowed=1e6, fp32=Net(gain=1.0), new=True)(Net(gain=1.0, spread=0.01))
    assert found.drop.images == LOOKS[0] and found.drop.high < 1


def test_batches() -> None:
    found = judge(images(64, batch=4))(Net(spread=0.5))
    assert found.drop.images == 64


def test_networks_that_do_not_classify_are_judged_by_their_relative_error() -> None:
    def half(data: Dataset) -> list[npt.NDArray[Any]]:
        return [out * np.float32(1.01 if i % 2 else 1.03) for i, out in enumerate(Net()(data))]

    asked = Judge(Net(), images(400), classifies=False, metric="mse", allowed=2.8)
    found = asked(half)
    assert found.drop.estimate == pytest.approx(2.0, abs=0.05) and found.keeps(2.8)
    assert found.drop.images == LOOKS[0] and 2.0 < found.drop.high < 2.8
    assert asked.basis.right is None and not asked.basis.trained_on


def test_time_and_plans_are_counted() -> None:
    asked = judge(images(100))
    before = asked.seconds
    asked(Net())
    assert asked.plans == 1 and asked.seconds > before > 0
