"""Fused multiply-add of float32 with one rounding, exactly, through float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def fma32(a: npt.NDArray[Any], b: npt.NDArray[Any], c: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """round_to_float32(a * b + c), rounded once (half to even), broadcasting.

    The product of two float32 is exact in float64. Its sum with c is rounded to odd there, which makes the second
    rounding to float32 equal to a single one: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums:
    proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008.

    Parameters
    ----------
    a, b, c : float32[...]

    Returns
    -------
    y : float32[broadcast shape]
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        product, term = np.broadcast_arrays(
            np.asarray(a, np.float32).astype(np.float64) * np.asarray(b, np.float32).astype(np.float64),
            np.asarray(c, np.float32).astype(np.float64),
        )
        total = np.asarray(product + term)
        # Knuth's TwoSum: `error` is exactly what the rounded total lost.
        back = total - product
        error = (product - (total - back)) + (term - back)
        even = (total.view(np.int64) & 1) == 0
        inexact = np.isfinite(total) & (error != 0)
        odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        return np.asarray(np.where(inexact & even, odd, total).astype(np.float32))
