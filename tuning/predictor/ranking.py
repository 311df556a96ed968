"""Which candidate kernel to measure next: a ranking learned from those measured so far (xgboost).

A candidate's worth is what it would save in the network: how often its operator occurs x the best time known for that
operator x the share that the ranking expects it to be faster. The ranking learns the ratio of a candidate to the
default of the same operator, from shapes and knobs, so that what one layer teaches helps the next one. Until there is
enough to learn from, candidates come in the order of their knob space, which its builder ranked by estimated cycles,
operators that take most of the network's time first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xgboost

from tvm_mpq.schema import Conv2dWorkload, LatencyKey
from tvm_mpq.tuning.predictor.entry import Entry, MachineFacts
from tvm_mpq.tuning.predictor.features import table

LEAST_PAIRS = 24
"""Measured candidates beside their default below which nothing is learned."""

UNKNOWN_GAIN = 0.1
"""Share that an unseen candidate is expected to save while nothing is learned; halved for each index in its space."""

_ROUNDS = 100
_TREES = {
    "objective": "reg:squarederror",
    "max_depth": 4,
    "eta": 0.1,
    "min_child_weight": 2,
    "lambda": 1.0,
    "base_score": 0.0,
    "nthread": 1,
    "seed": 0,
    "verbosity": 0,
}


Slot = tuple[str, str, int]
"""What a kernel is for: workload key, precision, bits it emits."""


def slot_of(key: LatencyKey) -> Slot:
    return key.workload, key.precision, key.out_bits


@dataclass(frozen=True)
class Candidate:
    """A kernel that might be measured. index: in its knob space, the default is 0; uses: calls in the network."""

    key: LatencyKey
    index: int
    uses: int


class Ranking:
    """Expected times of candidates, learned from all measured (key, microseconds) of one device.

    default_us: time of the default kernel of each slot; keys of other slots are left out.
    """

    def __init__(
        self, measured: Iterable[tuple[LatencyKey, float]], default_us: Mapping[Slot, float], machine: MachineFacts
    ) -> None:
        self._machine, self._default_us = machine, default_us
        pairs = [(key, us / default_us[slot_of(key)]) for key, us in measured if slot_of(key) in default_us]
        self._booster: xgboost.Booster | None = None
        if sum(1 for _, ratio in pairs if ratio != 1.0) >= LEAST_PAIRS:  # a default is its own ratio of 1
            pairs.sort(key=lambda pair: str(pair[0]))  # the same knowledge gives the same ranking
            target = np.log([ratio for _, ratio in pairs])
            matrix = xgboost.DMatrix(self._rows([key for key, _ in pairs]), label=target)
            self._booster = xgboost.train(_TREES, matrix, num_boost_round=_ROUNDS)

    @property
    def learned(self) -> bool:
        """Whether there was enough to learn from."""
        return self._booster is not None

    def gains(self, trials: Sequence[Candidate], best_us: Mapping[Slot, float]) -> npt.NDArray[np.float64]:
        """float64[trials]: microseconds that each is expected to save in the network; 0 where it is expected slower."""
        if not trials:
            return np.zeros(0)
        uses = np.array([t.uses for t in trials], dtype=np.float64)
        best = np.array([best_us[slot_of(t.key)] for t in trials])
        if self._booster is None:
            return np.asarray(uses * best * [UNKNOWN_GAIN * 0.5 ** (t.index - 1) for t in trials])
        ratio = np.exp(self._booster.predict(xgboost.DMatrix(self._rows([t.key for t in trials]))))
        expected = ratio * np.array([self._default_us[slot_of(t.key)] for t in trials])
        return np.asarray(uses * np.maximum(0.0, best - expected))

    def _rows(self, keys: Sequence[LatencyKey]) -> npt.NDArray[np.float64]:
        entries = [Entry(key, self._machine) for key in keys]
        return np.hstack([table(entries, np.ones(len(keys))), [_tile(entry) for entry in entries]])


def _tile(entry: Entry) -> list[float]:
    """Accumulators of a convolution's register tile, and how much of what it computes is computed twice."""
    w = entry.workload
    if not isinstance(w, Conv2dWorkload):
        return [math.nan] * 4
    sizes = [max(1, int(entry.knobs.get(name, 1))) for name in ("rows", "columns", "blocks")]
    extents = (w.out_height, w.out_width, -(-w.out_channels // 16))
    waste = [-(-extent // size) * size / extent for size, extent in zip(sizes, extents, strict=True)]
    return [float(math.prod(sizes)), *waste]
