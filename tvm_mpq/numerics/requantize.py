"""From exact integer accumulators to output integers: one float32 multiply, half to even, clamp."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.fma import fma32
from tvm_mpq.schema import TensorQuant


def multiplier(*scales: float | npt.NDArray[Any], output: float = 1.0) -> FloatArray:
    """float32 product of the scales over the output scale, computed in float64 and rounded once.

    >>> multiplier(0.5, np.float32([1.0, 2.0]), output=0.25)
    array([2., 4.], dtype=float32)
    """
    product: npt.NDArray[np.float64] = np.asarray(1.0)
    for scale in scales:
        product = product * np.asarray(scale, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(product / np.float64(output)).astype(np.float32)


def scale_accumulator(
    acc: npt.NDArray[np.int32],
    factor: FloatArray,
    residual: npt.NDArray[np.int32] | None = None,
    residual_factor: FloatArray | None = None,
) -> FloatArray:
    """y = float32(acc) * factor, or with a residual fma32(float32(acc), factor, float32(residual) * residual_factor).

    Parameters
    ----------
    acc : int32[..., C]
    factor : float32[C] or float32[]
    residual : int32[..., C], optional
        Zero point already subtracted.
    residual_factor : float32[], needed with a residual

    Returns
    -------
    y : float32[..., C]
        In units of the output's scale, zero point not yet added.
    """
    wide = np.asarray(acc).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        if residual is None:
            return np.asarray(wide * np.asarray(factor, dtype=np.float32))
        assert residual_factor is not None, "a residual needs its factor"
        term = np.asarray(residual).astype(np.float32) * np.asarray(residual_factor, dtype=np.float32)
        return fma32(wide, factor, term)


def round_clamp(y: npt.NDArray[Any], zero_point: int, lo: int, hi: int) -> npt.NDArray[np.uint8]:
    """uint8 clamp(round_half_even(y) + zero_point, lo, hi); NaN becomes lo."""
    with np.errstate(invalid="ignore"):
        steps = np.rint(np.asarray(y, dtype=np.float32)) + np.float32(zero_point)
    return np.asarray(np.fmin(np.fmax(steps, np.float32(lo)), np.float32(hi)).astype(np.uint8))


def requantize(
    acc: npt.NDArray[np.int32],
    factor: FloatArray,
    output: TensorQuant,
    bounds: tuple[int, int],
    residual: npt.NDArray[np.int32] | None = None,
    residual_factor: FloatArray | None = None,
) -> npt.NDArray[np.uint8]:
    """Output integers of an accumulator: `scale_accumulator`, then `round_clamp` to `bounds`.

    Parameters
    ----------
    acc : int32[..., C]
    factor : float32[C] or float32[]
        (input scale * weight scale) / output scale, as `multiplier` gives it.
    output : TensorQuant
    bounds : (int, int)
        As `affine.bounds_for_activation` gives them.
    residual, residual_factor
        As in `scale_accumulator`.

    Returns
    -------
    q : uint8[..., C]
    """
    return round_clamp(scale_accumulator(acc, factor, residual, residual_factor), output.zero_point, *bounds)
