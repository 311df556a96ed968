"""bfloat16: the upper half of a float32, one sign, eight exponent and seven fraction bits.

At the precision `bf16` tensors between operators stay float32. A convolution rounds both operands to bfloat16, nearest
even, and sums their products in float32. A product of two bfloat16 is exact in float32, so that a result differs from
exact arithmetic on the rounded operands by the sum's roundings alone: `sum_bound`. Hardware takes bfloat16 below
2^-126 for zero, which is far inside that bound for values of any use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.arrays import FloatArray


def to_bits(x: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """uint16[same shape]: `x` rounded to bfloat16, nearest even, as stored. NaN stays NaN, too large is infinite.

    >>> [hex(b) for b in to_bits(np.float32([1.0, 1.00390625, 1.01171875, -2.0]))]
    ['0x3f80', '0x3f80', '0x3f82', '0xc000']
    """
    values = np.ascontiguousarray(x, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    quiet = bits >> 16 | 0x40  # adding could carry a NaN's fraction into infinity or the sign
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def from_bits(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """float32[same shape] of stored bfloat16, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(x: npt.NDArray[Any]) -> FloatArray:
    """float32[same shape]: the nearest bfloat16 of each value, ties to even.

    >>> round_to_bfloat16(np.float32([1.0, 1.001, 3.14159265])).tolist()
    [1.0, 1.0, 3.140625]
    """
    return from_bits(to_bits(x))


def sum_bound(length: int, magnitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far a float32 sum of `length` exact products can be off in any order; `magnitude`: the sum of their sizes.

    Two more roundings are for the bias and a residual.
    """
    return np.asarray((length + 2) * 2.0**-24 * magnitude)
