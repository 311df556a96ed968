"""The predictor: a law of work, a regressor (xgboost) of what the law leaves, and intervals tested on held-out shapes.

Nothing but the measured entries decides: the same database gives the same predictions, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xgboost

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.arrays import DoubleArray
from tvm_mpq.tuning.predictor import heldout
from tvm_mpq.tuning.predictor.domain import Domain
from tvm_mpq.tuning.predictor.entry import Entry
from tvm_mpq.tuning.predictor.features import table
from tvm_mpq.tuning.predictor.law import Law

CONFIDENCE = 0.9
"""Share of measured values that an interval shall hold."""

LEAST_ENTRIES = 10
"""Held-out entries below which no interval, and so no prediction, can be given."""

_OWN_QUANTILE = 30
"""Held-out entries from which an operator class has an interval of its own."""

_LEAST_FOR_TREES = 40
"""Entries below which the law stands alone."""

_ROUNDS = 300
_TREES = {
    "objective": "reg:squarederror",
    "max_depth": 4,
    "eta": 0.05,
    "min_child_weight": 3,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "lambda": 3.0,
    "tree_method": "exact",
    "base_score": 0.0,
    "nthread": 1,  # several threads add floats in another order each time
    "seed": 0,
    "verbosity": 0,
}


@dataclass(frozen=True)
class Prediction:
    """Microseconds with the interval that held `CONFIDENCE` of the held-out entries, or the reason for a refusal.

    stated_error is relative: the measured value lies within a factor of 1 + stated_error, both ways.
    """

    median_us: float
    low_us: float
    high_us: float
    stated_error: float
    refused: str | None = None


class _Fit:
    """Law and trees on one set of entries."""

    def __init__(self, entries: Sequence[Entry], latency_us: DoubleArray) -> None:
        self.law = Law(entries, latency_us)
        self.domain = Domain(entries)
        self._trees: xgboost.Booster | None = None
        if len(entries) >= _LEAST_FOR_TREES:
            law_us = self.law(entries)
            data = xgboost.DMatrix(table(entries, law_us), np.log(latency_us / law_us), nthread=1)
            self._trees = xgboost.train(_TREES, data, _ROUNDS)

    def __call__(self, entries: Sequence[Entry]) -> DoubleArray:
        """float64[entries] microseconds."""
        law_us = self.law(entries)
        if self._trees is None:
            return law_us
        left = self._trees.predict(xgboost.DMatrix(table(entries, law_us), nthread=1))
        found: DoubleArray = law_us * np.exp(left.astype(np.float64))
        return found


class Predictor:
    """Learned from measured entries of one device.

    Parameters
    ----------
    entries : sequence of Entry
        Predictable ones, in any order.
    latency_us : float64[entries]
        Their measured medians, above 0.

    Raises
    ------
    InvalidValueError
        If a latency is not finite and above 0, or the lengths differ.
    """

    def __init__(self, entries: Sequence[Entry], latency_us: Sequence[float] | DoubleArray) -> None:
        times = np.array(latency_us, dtype=np.float64)
        if len(times) != len(entries) or not (np.isfinite(times) & (times > 0)).all():
            raise InvalidValueError(
                f"a predictor learns from one finite latency above 0 for each entry (got {len(times)} for "
                f"{len(entries)} entries, least {times.min(initial=np.inf):g})"
            )
        order = sorted(range(len(entries)), key=lambda i: (_sort_key(entries[i]), times[i]))
        self._entries = [entries[i] for i in order]
        self._times = times[order]
        self._fit = _Fit(self._entries, self._times) if self._entries else None

    @property
    def held_out(self) -> heldout.Errors:
        """Errors on entries whose shapes were left out of what was learned."""
        return self._validated[0]

    @property
    def _quantiles(self) -> dict[str, float]:
        return self._validated[1]

    def refusals(self, entries: Sequence[Entry]) -> list[str | None]:
        """Why each entry is too far from the data to be predicted, None = it is not; no errors are worked out."""
        reasons = [entry.unpredictable for entry in entries]
        known = [i for i, reason in enumerate(reasons) if reason is None]
        if known and self._fit is not None:
            for i, why in zip(known, self._fit.domain.refusals([entries[i] for i in known]), strict=True):
                reasons[i] = why
        return reasons

    def predict(self, entries: Sequence[Entry]) -> list[Prediction]:
        """A prediction or a refusal for each entry."""
        if self._fit is None or heldout.ALL not in self._quantiles:
            count = self.held_out.overall.count
            reason = f"{count} entries could be tested held out, {LEAST_ENTRIES} are needed for an interval"
            return [_refusal(reason) for _ in entries]
        reasons = self.refusals(entries)
        asked = [entry for entry, why in zip(entries, reasons, strict=True) if why is None]
        rows = iter(zip(self._fit(asked), self._widths(asked), strict=True) if asked else ())
        return [_interval(*next(rows)) if why is None else _refusal(why) for why in reasons]

    def _widths(self, entries: Sequence[Entry]) -> DoubleArray:
        """Half the interval, in natural logarithms: wider far from the data."""
        assert self._fit is not None
        everywhere = self._quantiles[heldout.ALL]
        scores = np.array([self._quantiles.get(e.operator_class, everywhere) for e in entries])
        return scores * _spread(self._fit.domain.distances(entries))

    @cached_property
    def _validated(self) -> tuple[heldout.Errors, dict[str, float]]:
        """Errors of predicting every entry from the other folds' shapes, and the widths of intervals that follow.

        Worked out when first asked for: it takes as long as learning twenty times.
        """
        entries, times = self._entries, self._times
        fold = heldout.folds([e.shape_group for e in entries])
        predicted, scores = np.full(len(times), np.nan), np.full(len(times), np.nan)
        near = np.zeros(len(times), dtype=bool)
        for k in sorted(set(fold.tolist())) if len(set(fold.tolist())) > 1 else ():
            inside, outside = np.flatnonzero(fold != k).tolist(), np.flatnonzero(fold == k).tolist()
            fit = _Fit([entries[i] for i in inside], times[inside])
            asked = [entries[i] for i in outside]
            predicted[outside] = fit(asked)
            scores[outside] = np.abs(np.log(times[outside] / predicted[outside])) / _spread(fit.domain.distances(asked))
            near[outside] = [reason is None for reason in fit.domain.refusals(asked)]
        # A small table holds little that would not be refused without its own fold: there, errors of all that the
        # folds could tell anything about stand in, which are larger.
        tested = near if near.sum() >= LEAST_ENTRIES else scores > 0
        chosen = np.flatnonzero(tested).tolist()
        classes = [entries[i].operator_class for i in chosen]
        errors = heldout.errors_of(classes, times[chosen], predicted[chosen], len(times) - len(chosen))
        return errors, _quantiles_of(np.array(classes, dtype=object), scores[chosen])


def _quantiles_of(classes: npt.NDArray[np.object_], scores: DoubleArray) -> dict[str, float]:
    """By operator class, and of all."""
    found = {}
    for name in (heldout.ALL, *sorted(set(classes.tolist()))):
        here = np.sort(scores if name == heldout.ALL else scores[classes == name])
        if len(here) >= (LEAST_ENTRIES if name == heldout.ALL else _OWN_QUANTILE):
            # the conformal rank: with one more exchangeable value, CONFIDENCE of them lie below
            rank = min(len(here), int(np.ceil((len(here) + 1) * CONFIDENCE)))
            found[name] = float(here[rank - 1])
    return found


def _spread(distances: DoubleArray) -> DoubleArray:
    """Error grows with the distance (octaves) to what was measured."""
    found: DoubleArray = 1 + distances
    return found


def _interval(middle_us: float, width: float) -> Prediction:
    """width: half the interval, in natural logarithms."""
    middle_us, factor = float(middle_us), float(np.exp(width))
    return Prediction(middle_us, middle_us / factor, middle_us * factor, factor - 1)


def _refusal(reason: str) -> Prediction:
    nothing = float("nan")
    return Prediction(nothing, nothing, nothing, nothing, reason)


def _sort_key(entry: Entry) -> tuple[str, ...]:
    return tuple(map(str, vars(entry.key).values()))
