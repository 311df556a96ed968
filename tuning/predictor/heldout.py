"""How far off predictions are on shapes the predictor did not see, by operator class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.arrays import DoubleArray

FOLDS = 5
SMALL_FOLDS = 20
SMALL = 100
"""Entries below which every one counts for training: more, smaller folds."""

ALL = "all"


@dataclass(frozen=True)
class ClassError:
    """count entries; mape: mean of |predicted / measured - 1|; worst of them; spearman: NaN below 3 entries."""

    count: int
    mape: float
    worst: float
    spearman: float


@dataclass(frozen=True)
class Errors:
    """Held-out errors: per operator class, and of all entries under `all`.

    refused: entries left out because they lay too far from the rest.
    """

    by_class: dict[str, ClassError]
    refused: int = 0

    @property
    def overall(self) -> ClassError:
        return self.by_class[ALL]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is None."""

        def plain(e: ClassError) -> dict[str, Any]:
            values = {"count": e.count, "mape": e.mape, "worst": e.worst, "spearman": e.spearman}
            return {k: None if v != v else v for k, v in values.items()}

        return {"refused": self.refused, "by_class": {name: plain(e) for name, e in self.by_class.items()}}

    def __str__(self) -> str:
        e = self.overall
        worst = max(self.by_class, key=lambda name: (name != ALL, self.by_class[name].mape))
        return (
            f"held-out error {e.mape:.1%} on {e.count} measured entries, rank correlation {e.spearman:.3f}; "
            f"largest for {worst}: {self.by_class[worst].mape:.1%}"
        )


def folds(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """int64[len(groups)]: the fold of each entry; equal groups share a fold, and nothing but the names decides."""
    count = FOLDS if len(groups) >= SMALL else SMALL_FOLDS
    names = sorted(set(groups))
    order = np.random.default_rng(0).permutation(len(names))
    fold = {names[i]: k % count for k, i in enumerate(order)}
    return np.array([fold[g] for g in groups], dtype=np.int64)


def errors_of(classes: Sequence[str], measured_us: DoubleArray, predicted_us: DoubleArray, refused: int = 0) -> Errors:
    """Errors by class and over all, classes in alphabetical order behind `all`."""
    names = np.array(list(classes), dtype=object)
    found = {ALL: _error(measured_us, predicted_us)}
    for name in sorted(set(classes)):
        found[name] = _error(measured_us[names == name], predicted_us[names == name])
    return Errors(found, refused)


def _error(measured_us: DoubleArray, predicted_us: DoubleArray) -> ClassError:
    if not len(measured_us):
        return ClassError(0, np.nan, np.nan, np.nan)
    off = np.abs(predicted_us / measured_us - 1)
    return ClassError(len(off), float(off.mean()), float(off.max()), spearman(measured_us, predicted_us))


def spearman(a: DoubleArray, b: DoubleArray) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN below 3 values or when one side is constant."""
    if len(a) < 3:
        return float("nan")
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else float("nan")


def _ranks(values: DoubleArray) -> DoubleArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: DoubleArray = last - (counts - 1) / 2
    return means[inverse]
