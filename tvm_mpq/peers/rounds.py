"""Which turns count, and what they say. A round is one turn of every engine, in changing order.

A turn is calm when the sentinel around it ran at its usual speed and the process did not have to wait for its core. An
engine's time comes from its calm turns; a ratio from the rounds in which both engines' turns were calm, or, where the
machine never is, from those in which both saw it in the same state.
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


def calm_turns(rounds: Sequence[Round], max_drift: float, max_waited: float) -> list[Round]:
    """Of every round the turns that count; a round may be left with none.

    max_drift: largest relative distance of a sentinel reading from its usual time; max_waited: largest share waited.
    """
    if not rounds:
        return []
    readings = [value for r in rounds for t in r.values() for value in (t.before_us, t.after_us)]
    usual = float(np.quantile(readings, USUAL_QUANTILE))

    def calm(t: Turn) -> bool:
        near = all(abs(value - usual) <= max_drift * usual for value in (t.before_us, t.after_us))
        return near and t.waited <= max_waited

    return [{name: t for name, t in r.items() if calm(t)} for r in rounds]


def alike(a: Turn, b: Turn, max_drift: float) -> bool:
    """Whether the sentinel says that both turns had the same machine, if perhaps a slow one."""
    readings = (a.before_us, a.after_us, b.before_us, b.after_us)
    return max(readings) <= (1 + max_drift) * min(readings)


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
    """ours / peer, round by round; below 1 ours is faster.

    peer: the one with the least median. basis: which rounds were used, "calm", "alike" (same state of a busy machine)
    or "all"; rounds: how many.
    """

    ours: str
    peer: str
    ratio: Spread
    basis: str
    rounds: int


def ratio_to_best(
    rounds: Sequence[Round], calm: Sequence[Round], ours: str, peers: Sequence[str], enough: int, max_drift: float
) -> Ratio | None:
    """None when ours or every peer is missing, or there are no rounds. enough: rounds that make a basis."""
    present = [p for p in peers if rounds and p in rounds[0]]
    if not present or ours not in rounds[0]:
        return None
    best = min(present, key=lambda p: spread(turn_times(rounds, calm, p, enough)).median)
    pairs = {
        "calm": [(r[ours], r[best]) for r in calm if ours in r and best in r],
        "alike": [(r[ours], r[best]) for r in rounds if alike(r[ours], r[best], max_drift)],
        "all": [(r[ours], r[best]) for r in rounds],
    }
    basis = next((name for name, found in pairs.items() if len(found) >= enough), "all")
    values = [a.median_us / b.median_us for a, b in pairs[basis]]
    return Ratio(ours, best, spread(values), basis, len(values))


def turn_times(rounds: Sequence[Round], calm: Sequence[Round], name: str, enough: int) -> list[float]:
    """Microseconds of an engine's calm turns; of all its turns when calm ones are fewer than `enough`."""
    quiet = [r[name].median_us for r in calm if name in r]
    return quiet if len(quiet) >= enough else [r[name].median_us for r in rounds]
