"""How many times as long one network takes as another, from rounds in which both were timed one after the other.

What slows the machine down for longer than a round slows both, and leaves their ratio alone. The interval of the median
ratio needs no assumption on how times scatter: its ends are order statistics of the rounds' ratios (the sign test's
interval, e.g. Hollander and Wolfe, Nonparametric Statistical Methods, section 3.6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95

FEWEST = 6
"""Rounds below which no two order statistics hold the median with 95 %."""


@dataclass(frozen=True)
class RatioOfRounds:
    """Median of the rounds' ratios; low, high: it lies between them with at least `CONFIDENCE`."""

    median: float
    low: float
    high: float
    rounds: int


def paired_ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> RatioOfRounds | None:
    """numerator, denominator: number of a round -> microseconds. None with fewer than `FEWEST` rounds in common.

    >>> slow, fast = {i: 20.0 + i for i in range(9)}, {i: 10.0 + i / 2 for i in range(7)}
    >>> paired_ratio(slow, fast)
    RatioOfRounds(median=2.0, low=2.0, high=2.0, rounds=7)
    """
    ratios = sorted(numerator[i] / denominator[i] for i in numerator.keys() & denominator.keys())
    count = len(ratios)
    if count < FEWEST:
        return None
    below, tail = 0, 0.5**count  # chance that at most `below` of the ratios lie under the true median
    while 2 * tail <= 1 - CONFIDENCE:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    return RatioOfRounds(float(np.median(ratios)), ratios[below - 1], ratios[count - below], count)
