"""Which missing entries tell most when measured: a spread over all that is missing (greedy k-center).

Each step takes the entry farthest from everything measured or taken so far. Entries of different strata are farther
apart than any two of one, so every stratum is touched first; within it the extremes come before the middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tvm_mpq.numerics.arrays import DoubleArray
from tvm_mpq.tuning.predictor.entry import Entry
from tvm_mpq.tuning.predictor.features import positions

_APART = 1000.0
"""Octaves between strata."""

_FORMATS_APART = 1.0
"""Octaves between kernels that differ in the output's format only."""

_SELDOM = 0.5
"""Weight of integer kernels that emit floats: a network has few of them, and their twins that emit bytes tell most."""


def most_informative(known: Sequence[Entry], missing: Sequence[Entry], fraction: float) -> list[int]:
    """Indices into `missing` of the ceil(fraction * len(missing)) entries to measure, most informative first."""
    count = min(len(missing), math.ceil(round(fraction * len(missing), 9)))
    order = sorted(range(len(missing)), key=lambda i: tuple(map(str, vars(missing[i].key).values())))
    entries = [missing[i] for i in order]
    strata = sorted({e.stratum for e in (*known, *missing)})
    here, there = _points(entries, strata), _points(known, strata)
    weight = np.array([_SELDOM if e.key.out_bits == 32 and not e.precision.is_float else 1.0 for e in entries])
    nearest = np.full(len(entries), np.inf)
    for point in there:
        nearest = np.minimum(nearest, weight * _distance(here, point))
    taken: list[int] = []
    while len(taken) < count:
        if not taken and not len(there):  # nothing to be far from: the middle of the largest stratum
            names = [e.stratum for e in entries]
            most = max(strata, key=names.count)
            inside = np.array([n == most for n in names])
            away = _distance(here, here[inside].mean(axis=0))
            best = int(np.where(inside, away, np.inf).argmin())
        else:
            best = int(nearest.argmax())
        taken.append(best)
        nearest = np.minimum(nearest, weight * _distance(here, here[best]))
        nearest[best] = -1.0
    return [order[i] for i in taken]


def _points(entries: Sequence[Entry], strata: Sequence[str]) -> DoubleArray:
    """float64[entries, coordinates + output format + strata]."""
    hot = np.zeros((len(entries), len(strata)))
    for i, entry in enumerate(entries):
        hot[i, strata.index(entry.stratum)] = _APART
    formats = np.array([[_FORMATS_APART * (e.key.out_bits == 32)] for e in entries]).reshape(len(entries), 1)
    return np.hstack([positions(entries), formats, hot])


def _distance(points: DoubleArray, point: DoubleArray) -> DoubleArray:
    found: DoubleArray = np.sqrt(((points - point) ** 2).sum(axis=1))
    return found
