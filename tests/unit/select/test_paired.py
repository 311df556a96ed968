"""Paired statistics: by hand for a few images, by simulation for what the bounds promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.random import Generator

from mpq_testing.regret import regrets
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.paired import (
    ALIKE,
    CONFIDENCE,
    RANKS,
    Doubles,
    Interval,
    changes,
    crossed,
    exact,
    images_needed,
    mean_of,
    softmax,
    student,
    temperature,
)

LOG = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]))


def test_regret_is_what_fp32_gives_the_class_it_loses() -> None:
    changed = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(regrets(LOG, changed), [0.3, 0.0], atol=1e-12)


def test_the_temperature_makes_a_network_as_sure_as_it_is_right(rng: Generator) -> None:
    """Labels drawn from softmax(logits / T) are found to be so."""
    logits = rng.normal(size=(4000, 5)) * 2
    for truth in (0.5, 0.8, 1.0, 2.5):
        drawn = (softmax(logits / truth).cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
        assert temperature(logits + 7, drawn) == pytest.approx(truth, rel=0.08)
    assert temperature(logits, logits.argmax(axis=1)) == pytest.approx(0.25, abs=0.01), "all right: the least there is"
    assert regrets(LOG, LOG[:, ::-1], 0.5)[0] == pytest.approx((0.36 - 0.01) / (0.36 + 0.09 + 0.01))


def written_out(before: Doubles, after: Doubles, near: int, temperature: float) -> Doubles:
    """h[i, j] of `crossed` as two loops; NaN where image i does not meet the noise of j. Rows in order of margins."""
    ranks = np.argsort(-before, axis=1)[:, :RANKS]
    best = np.sort(before, axis=1)
    order = np.argsort(best[:, -1] - best[:, -2])
    h = np.full((len(before), len(before)), np.nan)
    for place, i in enumerate(order):
        start = min(max(place - near // 2, 0), len(before) - near)
        for j in order[start : start + near]:
            moved = before[i, ranks[i]] + (after - before)[j, ranks[j]]
            p = softmax(before[i : i + 1] / temperature)[0, ranks[i]]
            h[i, j] = p[0] - p[np.argmax(moved)]
    return h


@pytest.mark.parametrize(("images", "classes"), [(1, 3), (7, 4), (ALIKE, 2), (ALIKE + 50, 3 * RANKS)])
@pytest.mark.parametrize("heat", [1.0, 1.7])
def test_crossing_meets_every_image_with_the_noise_of_its_like(
    rng: Generator, images: int, classes: int, heat: float
) -> None:
    before = rng.normal(size=(images, classes)) * 2
    after = before + rng.normal(size=before.shape)
    near = min(ALIKE, images)
    h = written_out(before, after, near, heat)
    assert np.isfinite(h).sum(axis=1).tolist() == [near] * images
    found = crossed(before, after, 2.0, heat)
    by_image, by_noise = np.nanmean(h, axis=1), np.nansum(h, axis=0) / near
    error = math.sqrt((by_image.var(ddof=1) + by_noise.var(ddof=1)) / images) if images > 1 else 0.0
    mean = by_image.mean()
    assert found.estimate == pytest.approx(100 * mean) and found.images == images
    factor = math.exp(min(2 * error / mean, 20)) if mean else 1.0
    assert (found.low, found.high) == pytest.approx((100 * mean / factor, 100 * mean * factor))


def test_noise_on_what_is_sure_is_not_put_onto_close_calls(rng: Generator) -> None:
    before = rng.normal(size=(600, 5)) * 4
    best = np.sort(before, axis=1)
    sure = (best[:, -1] - best[:, -2])[:, None]
    after = before + rng.normal(size=before.shape) * np.where(sure > 4, sure / 3, 0.0)
    assert crossed(before, after, 1.0).estimate < 1.0
    assert crossed(before, before + (after - before)[rng.permutation(600)], 1.0).estimate > 3.0


def test_no_noise_is_no_loss_and_certain() -> None:
    assert crossed(LOG, LOG, 5.0) == exact(0.0, 2)


def network(rng: Generator, images: int, spread: float) -> tuple[Doubles, Doubles]:
    """Logits of ten classes, and of the same network with noise."""
    logits = rng.normal(size=(images, 10)) * 4
    return logits, logits + rng.normal(size=logits.shape) * spread


@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_the_bounds_hold_as_often_as_they_say(spread: float) -> None:
    """300 data sets of 80 images: 3 standard deviations of a share of 0.9 are 0.052."""
    truth = 100 * float(np.mean(regrets(*network(np.random.default_rng(1), 400_000, spread))))
    above = below = 0
    for seed in range(300):
        logits, changed = network(np.random.default_rng(seed + 10), 80, spread)
        found = crossed(logits, changed, student(80))
        above += found.high >= truth
        below += found.low <= truth
    assert above / 300 >= CONFIDENCE - 0.052 and below / 300 >= CONFIDENCE - 0.052


def test_crossing_knows_more_than_counting() -> None:
    """Of 500 images, with a plan that loses about half a point: the bound is that near, that of counting is not."""
    logits, changed = network(np.random.default_rng(3), 500, 0.5)
    found = crossed(logits, changed, student(500))
    flips = int((logits.argmax(axis=1) != changed.argmax(axis=1)).sum())
    counted = changes(flips // 2, flips - flips // 2, 500)
    assert 0.2 < found.estimate < 2
    assert found.high - found.estimate < 0.25 * (counted.high - counted.estimate)


def test_counts_with_labels() -> None:
    """Agresti and Min: (c - b) / (n + 2), variance ((b + c + 1) / (n + 2) - share^2) / (n + 2)."""
    found = changes(better=4, worse=10, images=100, level=0.975)
    share = 6 / 102
    spread = 1.959964 * math.sqrt((15 / 102 - share**2) / 102)
    assert found.estimate == pytest.approx(6.0)
    assert (found.low, found.high) == pytest.approx((100 * (share - spread), 100 * (share + spread)), abs=1e-4)


def test_no_change_on_few_images_proves_little() -> None:
    assert changes(0, 0, 50).high > 2 and changes(0, 0, 5000).high < 0.03
    with pytest.raises(InvalidValueError, match=r"images must be 1 or more \(got 0\)"):
        changes(0, 0, 0)


@pytest.mark.parametrize(
    ("freedom", "table"), [(1, 3.078), (2, 1.886), (5, 1.476), (10, 1.372), (30, 1.310), (10**6, 1.2816)]
)
def test_students_quantile(freedom: int, table: float) -> None:
    assert student(freedom + 1) == pytest.approx(table, rel=0.04 if freedom == 1 else 0.004)


def test_mean_of_losses() -> None:
    found = mean_of(np.array([0.01, 0.03]), 2.0)
    error = math.sqrt(0.0002) / math.sqrt(2)
    assert found.estimate == pytest.approx(2.0) and found.high == pytest.approx(2 * math.exp(2 * error / 0.02))
    assert mean_of(np.array([0.01]), 1.0).high == pytest.approx(math.e), "one image does not tell how others scatter"
    assert mean_of(np.zeros(5), 3.0) == exact(0.0, 5)


def test_images_needed() -> None:
    """The width falls with the root of their number: half of it needs four times as many."""
    found = Interval(0.3, 0.1, 0.7, 100)
    assert images_needed(found, 0.5) == 400
    assert images_needed(found, 0.3) is None and images_needed(exact(math.nan), 1.0) is None
    assert images_needed(found, 0.9) == 100
    assert images_needed(found, 0.319) == 44322 and images_needed(found, 0.317) is None  # nobody has so many


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4 - math.log(3)]])), [[0.75, 0.25]])


def test_few_images_without_a_loss_are_no_proof() -> None:
    """No call of these is close enough to change; that none of a thousand is, 25 do not show and 1,000 do."""
    rng = np.random.default_rng(5)

    def found(images: int, noise: float) -> Interval:
        before = np.zeros((images, 4))
        before[:, 0] = rng.uniform(1.0, 6.0, images)
        return crossed(before, before + rng.uniform(-noise, noise, before.shape), student(images, 0.99))

    few, many = found(25, 0.4), found(1000, 0.4)
    assert few.estimate == many.estimate == 0
    assert few.high > 2 and many.high < 0.2
    assert found(25, 0.01).high < 0.2, "what noise as small as that turns is worth next to nothing"
    assert found(25, 0.0).high == 0
