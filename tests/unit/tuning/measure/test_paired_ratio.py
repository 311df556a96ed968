from __future__ import annotations

import numpy as np
import pytest

from tvm_mpq.tuning.measure.paired_ratio import CONFIDENCE, FEWEST, paired_ratio


def rounds(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def test_too_few_rounds_in_common() -> None:
    many = rounds(np.ones(20))
    assert paired_ratio(many, rounds(np.ones(FEWEST - 1))) is None
    assert paired_ratio(many, {100 + i: 1.0 for i in range(20)}) is None
    found = paired_ratio(many, rounds(np.ones(FEWEST)))
    assert found is not None and found.rounds == FEWEST


def test_a_slow_machine_leaves_the_ratio_alone(rng: np.random.Generator) -> None:
    """Whole rounds of any speed: medians apart would be anything, the ratio is exact."""
    speed = rng.uniform(1, 9, 15)
    found = paired_ratio(rounds(30 * speed), rounds(20 * speed))
    assert found is not None
    assert (found.median, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("count", [6, 15, 40])
def test_the_interval_holds_the_median_as_often_as_it_says(rng: np.random.Generator, count: int) -> None:
    """In 2,000 experiments with skewed noise, whose true median ratio is 2: 95 % less three sigmas of 0.5 %."""
    trials = 2000
    inside = 0
    for _ in range(trials):
        noise = rng.exponential(1.0, count) - np.log(2)  # median 0
        found = paired_ratio(rounds(2 + 0.1 * noise), rounds(np.ones(count)))
        assert found is not None and found.low <= found.median <= found.high
        inside += found.low <= 2 <= found.high
    assert inside / trials > CONFIDENCE - 3 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / trials)


def test_more_rounds_narrow_it(rng: np.random.Generator) -> None:
    widths = []
    for count in (8, 32, 128):
        found = paired_ratio(rounds(rng.normal(2, 0.1, count)), rounds(np.ones(count)))
        assert found is not None
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
