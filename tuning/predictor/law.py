"""Microseconds as a sum of work: each stratum of kernels has its prices of products, loads, bytes, none below 0.

Prices of a stratum are drawn towards those of its kind of operator at its number format, scaled to the stratum, and
those towards a plain roofline: a stratum with two samples gets the prices of its kind, one with a hundred its own.
Being a sum, the law goes on sensibly where a tree would stay constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from tvm_mpq.numerics.arrays import DoubleArray
from tvm_mpq.tuning.predictor.entry import Entry
from tvm_mpq.tuning.predictor.traffic import TERMS, terms

_CALL_US = 0.2
_ROOFLINE_US = {
    "products": 1.5e-4,  # half a cycle of 3 to 4 GHz
    "loads": 1.0e-4,
    "stores": 1.5e-3,
    "tiles": 3.0e-3,
    "staged_bytes": 2.0e-5,
    "near_bytes": 1.0e-5,
    "l2_bytes": 1.0e-5,
    "far_bytes": 4.0e-5,
}
"""Prices of a current core, right within a factor of a few; the scale of each stratum mends the rest."""

_PULL = 0.003
"""Weight of the prior prices, in samples times squared relative error."""

_REVIVAL = 0.02
"""A price that a kind does not have at all is still possible for a stratum: from this share of the largest on."""


def columns(entries: Sequence[Entry]) -> DoubleArray:
    """float64[entries, 1 + terms]: microseconds of each term at the roofline's prices, the call first."""
    prices = [_ROOFLINE_US[name] for name in TERMS]
    rows = [[_CALL_US, *(count * price for count, price in zip(terms(e), prices, strict=True))] for e in entries]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(TERMS))


class Law:
    """Prices per stratum.

    Parameters
    ----------
    entries : sequence of Entry
        Predictable ones.
    latency_us : float64[entries]
        Above 0.
    """

    def __init__(self, entries: Sequence[Entry], latency_us: DoubleArray) -> None:
        priced = columns(entries)
        strata = np.array([e.stratum for e in entries], dtype=object)
        kinds = np.array([_kind(e) for e in entries], dtype=object)
        # a family that is twice as fast throughout shall not distort the prices of its kind
        speeds = {name: np.median((latency_us / priced.sum(axis=1))[strata == name]) for name in set(strata)}
        even_us = latency_us / np.array([speeds[name] for name in strata])
        self._everywhere = _fit(priced, latency_us)
        self._prices: dict[str, DoubleArray] = {}
        for kind in sorted(set(kinds)):
            common = _fit(priced[kinds == kind], even_us[kinds == kind])
            for name in sorted(set(strata[kinds == kind])):
                here = strata == name
                self._prices[name] = _fit(priced[here], latency_us[here], common)

    def __call__(self, entries: Sequence[Entry]) -> DoubleArray:
        """float64[entries] microseconds; an unknown stratum gets the prices of all kernels together."""
        prices = [self._prices.get(e.stratum, self._everywhere) for e in entries]
        total: DoubleArray = np.einsum(
            "ij,ij->i", columns(entries), np.array(prices).reshape(len(prices), 1 + len(TERMS))
        )
        return total


def _kind(entry: Entry) -> str:
    return f"{entry.workload.kind} {'float' if entry.precision.is_float else 'integer'}"


def _fit(priced: DoubleArray, latency_us: DoubleArray, prior: DoubleArray | None = None) -> DoubleArray:
    """Factors >= 0 on the roofline's prices: least squares of relative errors, drawn to `prior` at a common scale."""
    prior = np.ones(priced.shape[1]) if prior is None else np.maximum(prior, _REVIVAL * prior.max())
    priced = priced * prior
    scale = float(np.median(latency_us / priced.sum(axis=1)))
    shares = priced * scale / latency_us[:, None]
    pull = np.sqrt(_PULL)  # one more row for each price, which wants it to be the prior's
    rows = np.vstack([shares, pull * np.eye(shares.shape[1])])
    wanted = np.concatenate([np.ones(len(shares)), np.full(shares.shape[1], pull)])
    factors: DoubleArray = nnls(rows, wanted)[0]
    return factors * scale * prior
