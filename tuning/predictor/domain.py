"""What a predictor has data about: an entry far from everything measured is refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mpq.numerics.arrays import DoubleArray
from tvm_mpq.tuning.predictor.entry import Entry
from tvm_mpq.tuning.predictor.features import COORDINATES, positions

LEAST_SHAPES = 2
"""Different shapes of a stratum below which nothing is said about it."""

MARGIN_OCTAVES = 2.0
"""How far outside its stratum's measured range a coordinate may lie: a factor of 4."""

REACH_OCTAVES = 6.0
"""How far the nearest measured entry of the stratum may be, over all coordinates."""


@dataclass(frozen=True)
class _Known:
    points: DoubleArray  # [entries, coordinates]
    shapes: int


class Domain:
    """Where the measured entries of each stratum lie."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._strata: dict[str, _Known] = {}
        points = positions(entries)
        names = np.array([e.stratum for e in entries], dtype=object)
        for name in sorted(set(names.tolist())):
            here = np.flatnonzero(names == name).tolist()
            self._strata[name] = _Known(points[here], len({entries[i].shape_group for i in here}))

    def distances(self, entries: Sequence[Entry]) -> DoubleArray:
        """float64[entries]: octaves to the nearest measured entry of the same stratum; infinite when there is none."""
        found = np.full(len(entries), np.inf)
        for i, (entry, point) in enumerate(zip(entries, positions(entries), strict=True)):
            known = self._strata.get(entry.stratum)
            if known is not None:
                found[i] = np.sqrt(((known.points - point) ** 2).sum(axis=1)).min()
        return found

    def refusals(self, entries: Sequence[Entry]) -> list[str | None]:
        """Why each entry is too far away to be predicted, or None."""
        return [
            self._refusal(e, p, d) for e, p, d in zip(entries, positions(entries), self.distances(entries), strict=True)
        ]

    def _refusal(self, entry: Entry, point: DoubleArray, distance: float) -> str | None:
        known = self._strata.get(entry.stratum)
        if known is None or known.shapes < LEAST_SHAPES:
            shapes = 0 if known is None else known.shapes
            return f"{shapes} shapes of {entry.stratum} were measured, {LEAST_SHAPES} are needed"
        low, high = known.points.min(axis=0), known.points.max(axis=0)
        outside = np.maximum(low - point, point - high)
        worst = int(outside.argmax())
        if outside[worst] > MARGIN_OCTAVES:
            side = "below" if point[worst] < low[worst] else "above"
            return f"its {COORDINATES[worst]} lie {2 ** outside[worst]:.0f} times {side} all that was measured"
        if distance > REACH_OCTAVES:
            return f"the nearest measured entry is {distance:.1f} octaves away, at most {REACH_OCTAVES:g} are allowed"
        return None
