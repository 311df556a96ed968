"""Plans that keep the drop only once they have learned: faster ones than any that keeps it as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.quality import Quality, Tried

ALLOWANCES = (6.0, 2.5)
"""Times the drop that a plan may lose before it learns, the boldest first. Each costs a training."""

GAIN = 0.03
"""Relative gain in latency that is worth a training."""


def fastest_learned(
    chosen: Tried,
    max_drop: float,
    within: Callable[[float], Tried | None],
    learned: Callable[[Solution], Quality],
) -> Tried:
    """The boldest plan that keeps the drop after learning; `chosen`, which keeps it as it is, where none does.

    within: the fastest plan that loses at most so many points, None = there is none. learned: what a plan is worth once
    it has learned.
    """
    for allowance in ALLOWANCES:
        bold = within(allowance * max_drop)
        if bold is None or bold.solution.latency_us > (1 - GAIN) * chosen.solution.latency_us:
            continue
        quality = learned(bold.solution)
        if quality.keeps(max_drop):
            return dataclasses.replace(bold, quality=quality)
    return chosen
