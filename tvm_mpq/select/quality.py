"""What a plan was found to be worth, once it was run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.paired import Interval

NEAR_TIE = 0.02
"""Relative difference of two latencies that another day's measurement may turn around."""


@dataclass(frozen=True)
class Quality:
    """A plan run end to end. drop: accuracy points it will lose to fp32, estimate and bounds; loss: mean output loss.

    Both are infinite where outputs hold NaN or infinity.
    """

    drop: Interval
    loss: float

    def keeps(self, max_drop: float) -> bool:
        """Whether no more than `max_drop` points are lost, with the interval's confidence."""
        return self.drop.high <= max_drop


@dataclass(frozen=True)
class Tried:
    """A solution and what it was really worth. name: of a uniform plan, such as `uniform w8a8`; else empty."""

    solution: Solution
    quality: Quality
    name: str = ""


def fastest_uniform(tried: Iterable[Tried], max_drop: float) -> Tried | None:
    """The fastest uniform plan that keeps the drop."""
    keeping = [t for t in tried if t.name and t.quality.keeps(max_drop)]
    return min(keeping, key=lambda t: t.solution.latency_us, default=None)


def nearest_uniform(tried: Iterable[Tried], max_drop: float) -> Tried | None:
    """Of uniform plans that do not keep the drop, the one that loses least, by its upper bound."""
    failing = [t for t in tried if t.name and not t.quality.keeps(max_drop) and not t.quality.drop.broken]
    return min(failing, key=lambda t: t.quality.drop.high, default=None)


def near_ties(chosen: Tried, tried: Iterable[Tried], max_drop: float) -> list[Tried]:
    """Other plans that keep the drop and are hardly slower, or a little faster, than the chosen one."""
    most = (1 + NEAR_TIE) * chosen.solution.latency_us
    others = [t for t in tried if t.solution.choices != chosen.solution.choices and t.quality.keeps(max_drop)]
    return sorted((t for t in others if t.solution.latency_us <= most), key=lambda t: t.solution.latency_us)
