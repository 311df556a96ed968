"""Sums so short that no scaled accumulator leaves int32, and the constants that make it so.

Only multipliers and biases that saturate the output anyway are changed, so every output stays what it was.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.schema import Conv2dWorkload

_SATURATED = 256.0
"""|y| from here on is the end of the output's range, whatever the zero point in 0..255."""


def _reach(w: Conv2dWorkload, weight_bits: int) -> int:
    """The greatest |sum of (x - zero point) * w|."""
    return 255 * weight_range(weight_bits)[1] * w.kernel[0] * w.kernel[1] * (w.in_channels // w.groups)


def bounded(w: Conv2dWorkload, weight_bits: int) -> bool:
    """Whether constants from `limited` keep |float32(acc) * m| below 2^31.

    |acc| <= 2 * reach + 256 / m + 2 and m <= 256, so the product is at most 512 * reach + 256 + 2 * 256.
    """
    return 512 * _reach(w, weight_bits) + 1024 < 2**31 - 2**8


def limited(
    w: Conv2dWorkload, weight_bits: int, bias: npt.NDArray[np.int32], multiplier: FloatArray
) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """int32[O] bias (zero point not folded in) and float32[O] multiplier of equal outputs, within bounds.

    A multiplier of 256 or more saturates each sum but 0; a bias beyond the reach of the products by 256 / m saturates
    each output of the channel.
    """
    m = np.minimum(multiplier, np.float32(_SATURATED))
    reach = _reach(w, weight_bits)
    limits = np.array([reach + min(math.ceil(_SATURATED / max(float(v), 1e-30)) + 1, 2**31) for v in m], np.int64)
    return np.clip(bias.astype(np.int64), -limits, limits).astype(np.int32), m
