"""Affine quantization: what an integer means, how scales are chosen, how values are rounded.

Activations: real = (q - zero_point) * scale, q unsigned. Weights: real = q * scale, q signed and symmetric, one scale
per output channel. Rounding is half to even, division is a true division (not a product with the reciprocal).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError, UnsupportedBitsError
from tvm_mpq.numerics.activation_names import clamp_bounds, is_clamp
from tvm_mpq.numerics.arrays import ByteArray, FloatArray
from tvm_mpq.schema import TensorQuant

_SHRINK = np.linspace(1.0, 0.2, 41)  # shares of max|w| tried as the clipping point below 8 bits
_BLOCK = 1 << 15  # weights handled at once, so that the 41 passes stay in the cache
_TINY = float(np.finfo(np.float32).tiny)
_NO_SCALE = 2.0**-60  # of a channel of zeros: fine for its bias, and at one bit, where codes are never 0, for its sums


def unsigned_range(bits: int) -> tuple[int, int]:
    """Least and greatest integer of an activation tensor.

    Raises
    ------
    UnsupportedBitsError
        If `bits` is outside 1..8.

    >>> unsigned_range(4)
    (0, 15)
    """
    if not 1 <= bits <= 8:
        raise UnsupportedBitsError(f"activation bits must be in [1, 8] (got {bits})")
    return 0, 2**bits - 1


def weight_range(bits: int) -> tuple[int, int]:
    """Least and greatest integer of a symmetric weight; at one bit these two are the only ones.

    Raises
    ------
    UnsupportedBitsError
        If `bits` is outside 1..8.

    >>> weight_range(4), weight_range(1)
    ((-7, 7), (-1, 1))
    """
    if not 1 <= bits <= 8:
        raise UnsupportedBitsError(f"weight bits must be in [1, 8] (got {bits})")
    high = max(1, 2 ** (bits - 1) - 1)
    return -high, high


def weight_scale(w: npt.NDArray[Any], bits: int) -> FloatArray:
    """Choose the scale of each output channel (axis 0).

    8 bits: max|w| / 127. 7 to 2 bits: of 41 clipping points between max|w| and 0.2 max|w| the one with the least
    squared error; of equal ones the widest. 1 bit: mean|w|, which has the least squared error of all scales when the
    codes are signs (Rastegari et al. 2016, XNOR-Net).

    Parameters
    ----------
    w : float32[O, ...]
    bits : int
        1..8.

    Returns
    -------
    scale : float32[O]
        Real units per integer step. A channel of zeros (or of subnormal numbers) gets 2^-60: its bias is rounded to
        fine steps, and at one bit, where no integer is 0, its sums vanish beside any output step.

    Raises
    ------
    InvalidValueError
        If `w` holds NaN or infinity, or has no axis.
    """
    qmax = weight_range(bits)[1]
    flat = _finite_rows(w)
    if bits == 1:
        mean = np.abs(flat).sum(axis=1, dtype=np.float64) / max(1, flat.shape[1])
        return _usable_scale(mean)
    top = np.abs(flat).max(axis=1, initial=0.0).astype(np.float64)
    full = _usable_scale(top / qmax)
    if bits == 8 or flat.shape[1] == 0:
        return full
    scale = np.empty_like(full)
    rows = max(1, _BLOCK // flat.shape[1])
    for start in range(0, len(flat), rows):
        part = slice(start, start + rows)
        scale[part] = _least_squares_scale(flat[part], top[part], qmax)
    return scale


def _least_squares_scale(flat: FloatArray, top: npt.NDArray[np.float64], qmax: int) -> FloatArray:
    """The scale of least squared error over the shrink grid; flat float32[o, n], top float64[o]."""
    best = np.full(len(flat), np.inf)
    chosen = np.ones(len(flat), dtype=np.float32)
    for factor in _SHRINK:
        scale = _usable_scale(top * factor / qmax)
        steps = flat / scale[:, None]  # errors in steps cannot overflow, whatever the weights
        error = np.rint(steps)
        np.clip(error, -qmax, qmax, out=error)
        error -= steps
        np.square(error, out=error)
        loss = error.sum(axis=1, dtype=np.float64) * np.square(scale.astype(np.float64))
        better = loss < best
        best[better] = loss[better]
        chosen[better] = scale[better]
    return chosen


def quantize_weight(
    w: npt.NDArray[Any], bits: int, least_scale: FloatArray | None = None
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Quantize `w` per output channel (axis 0): q = clip(round_half_even(w / scale)).

    At one bit q is the sign of w, and +1 for a zero of either sign.

    Parameters
    ----------
    w : float32[O, ...]
    bits : int
        1..8.
    least_scale : float32[O], optional
        Scales are raised to these, so that a bias can be expressed in steps (`conv.least_scale`).

    Returns
    -------
    q : int8[same shape as w]
        In `weight_range(bits)`.
    scale : float32[O]
        As `weight_scale` gives it, not below `least_scale`.

    Raises
    ------
    InvalidValueError
        If `w` holds NaN or infinity.

    >>> quantize_weight(np.array([[-3.0, 0.0, 1.0, 4.0]]), 1)
    (array([[-1,  1,  1,  1]], dtype=int8), array([2.], dtype=float32))
    """
    low, high = weight_range(bits)
    scale = weight_scale(w, bits)
    if least_scale is not None:
        scale = np.maximum(scale, least_scale)
    if bits == 1:
        return np.where(np.asarray(w) < 0, np.int8(-1), np.int8(1)), scale
    w = np.asarray(w, dtype=np.float32)
    steps = np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1)))
    return np.clip(steps, low, high).astype(np.int8), scale


def tensor_quant(lo: float, hi: float, bits: int) -> TensorQuant:
    """The quantization of a tensor whose values lie in [lo, hi], widened so that 0 is exact.

    A range too small for a normal float32 scale gets scale 1.0.

    Raises
    ------
    InvalidValueError
        If a bound is not finite or lo > hi.
    """
    _, qmax = unsigned_range(bits)
    if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
        raise InvalidValueError(f"an activation range needs finite bounds, low <= high (got [{lo:g}, {hi:g}])")
    lo, hi = min(float(lo), 0.0), max(float(hi), 0.0)
    with np.errstate(over="ignore"):
        scale = float(np.float32((hi - lo) / qmax))
    if not math.isfinite(scale):
        raise InvalidValueError(f"an activation range must fit float32 (got [{lo:g}, {hi:g}] at {bits} bits)")
    if scale < _TINY:
        scale = 1.0
    return TensorQuant(bits, scale, int(np.clip(np.rint(-lo / scale), 0, qmax)))


def quantize(x: npt.NDArray[Any] | float, tq: TensorQuant) -> ByteArray:
    """q = clamp(round_half_even(x / scale) + zero_point); float32 division; NaN becomes 0.

    Parameters
    ----------
    x : float32[...]

    Returns
    -------
    q : uint8[same shape as x]

    >>> quantize(np.array([-9.0, 0.5, 1.5]), TensorQuant(8, 1.0, 3))
    array([0, 3, 5], dtype=uint8)
    """
    low, high = unsigned_range(tq.bits)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.asarray(x, dtype=np.float32) / np.float32(tq.scale)) + np.float32(tq.zero_point)
    return np.asarray(np.fmin(np.fmax(steps, np.float32(low)), np.float32(high)).astype(np.uint8))


def dequantize(q: npt.NDArray[Any], tq: TensorQuant) -> FloatArray:
    """Real values float32[same shape as q]: float32(q - zero_point) * scale, one rounding."""
    return np.asarray((np.asarray(q).astype(np.int32) - tq.zero_point).astype(np.float32) * np.float32(tq.scale))


def dequantize_codes(q: npt.NDArray[np.uint8], tq: TensorQuant) -> FloatArray:
    """What `dequantize` gives, for many uint8 numbers: float32 holds their differences exactly."""
    real = q.astype(np.float32)
    real -= np.float32(tq.zero_point)
    real *= np.float32(tq.scale)
    return real


def bounds_for_activation(activation: str, tq: TensorQuant) -> tuple[int, int]:
    """The integers [lo, hi] to which an output of `tq` is clamped by `activation`.

    relu and clip narrow the full range; an activation that is not a clamp leaves it.

    >>> bounds_for_activation("clip:0.0:6.0", TensorQuant(8, 0.05, 10))
    (10, 130)
    """
    low, high = unsigned_range(tq.bits)
    if not is_clamp(activation):
        return low, high
    bounds = np.array(clamp_bounds(activation), dtype=np.float32)
    lo, hi = quantize(bounds, tq)
    return int(lo), int(hi)


def _finite_rows(w: npt.NDArray[Any]) -> FloatArray:
    w = np.asarray(w, dtype=np.float32)
    if w.ndim == 0:
        raise InvalidValueError("a weight needs an axis of output channels (got a scalar)")
    if not np.isfinite(w).all():
        bad = int(w.size - np.isfinite(w).sum())
        raise InvalidValueError(f"weights must be finite (got {bad} NaN or infinite of {w.size}); repair the model")
    return w.reshape(len(w), math.prod(w.shape[1:]))


def _usable_scale(scale: npt.NDArray[np.float64]) -> FloatArray:
    """float32 scales; 2^-60 where a channel is zero or too small for a normal number."""
    rounded = scale.astype(np.float32)
    return np.where(rounded < _TINY, np.float32(_NO_SCALE), rounded)
