"""Which rounds count, and what they say. A round is one turn of every engine, in changing order.

A turn is calm when the sentinel around it ran at its usual speed and the process did not have to wait for its core. A
round counts only when all its turns are calm, so that every ratio comes from the same calm minute of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Turn:
    """One engine's part of a round. waited: share of the time in which its threads had no core."""

    median_us: float
    calls: int
    before_us: float
    after_us: float
    waited: float


Round = Mapping[str, Turn]
"""Engine -> its turn."""

USUAL_QUANTILE = 0.25
"""The sentinel's usual time: disturbances only ever make it longer, so it is looked for below the median."""


def calm_rounds(rounds: Sequence[Round], max_drift: float, max_waited: float) -> list[Round]:
    """The rounds that count.

    max_drift: largest relative distance of a sentinel reading from its usual time; max_waited: largest share waited.
    """
    if not rounds:
        return []
    readings = [value for r in rounds for t in r.values() for value in (t.before_us, t.after_us)]
    usual = float(np.quantile(readings, USUAL_QUANTILE))

    def calm(t: Turn) -> bool:
        near = all(abs(value - usual) <= max_drift * usual for value in (t.before_us, t.after_us))
        return near and t.waited <= max_waited

    return [r for r in rounds if all(calm(t) for t in r.values())]


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The order of round number `turn`: everybody comes first equally often."""
    at = turn % len(names)
    return [*names[at:], *names[:at]]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @property
    def iqr(self) -> float:
        return self.high - self.low


def spread(values: Sequence[float]) -> Spread:
    low, median, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high)


@dataclass(frozen=True)
class Ratio:
    """ours / peer, round by round; below 1 ours is faster. peer: the one with the least median of all."""

    ours: str
    peer: str
    ratio: Spread


def ratio_to_best(rounds: Sequence[Round], ours: str, peers: Sequence[str]) -> Ratio | None:
    """None when ours or every peer is missing, or there are no rounds."""
    present = [p for p in peers if rounds and p in rounds[0]]
    if not present or ours not in rounds[0]:
        return None
    best = min(present, key=lambda p: spread([r[p].median_us for r in rounds]).median)
    return Ratio(ours, best, spread([r[ours].median_us / r[best].median_us for r in rounds]))
