"""Unsigned activations for signed instructions: the one place that decides how.

Activations are unsigned bytes, and NEON multiplies bytes of equal signedness only. So registers hold x - c, where c is
half the activations' range, and the bias holds the difference: sum (x - c) * w = sum x * w - c * sum w. The subtraction
is one instruction for 16 channels of a position. Border cells and cells behind the last channel need no care: the
former hold the zero point, the latter meet zero weights. |x - c| is as small as it can be, so that `pairwise` can add
the most products in 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packing.dense import with_ranges
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.tir import Code, ramp
from tvm_mpq.numerics.constants import ConvConstants

_BYTES = 16


def centre(activation_bits: int) -> int:
    """c: x - c fits a signed byte, and |x - c| <= c.

    >>> centre(8), centre(4)
    (128, 8)
    """
    return 1 << (activation_bits - 1)


def bind_centre(code: Code, activation_bits: int, count: int = _BYTES) -> None:
    """Bind what `load_centred` subtracts from vectors of `count` bytes; once a call."""
    code.let("v_centre", f"T.Broadcast(T.uint8({centre(activation_bits)}), {count})")


def load_centred(x: str, count: int = _BYTES) -> str:
    """x - c of `count` bytes from index `x` of X."""
    return f'T.reinterpret("int8x{count}", X[{ramp(x, count)}] - v_centre)'


def repeat_centred(x: str) -> str:
    """x - c of 4 bytes from index `x` of X, four times over."""
    loaded = f'T.reinterpret("uint8x16", T.Broadcast(T.reinterpret("int32", X[{ramp(x, 4)}]), 4))'
    return f'T.reinterpret("int8x16", {loaded} - v_centre)'


def centred_ranges(request: Request, numbers: ConvConstants, weight: npt.NDArray[Any]) -> list[np.ndarray]:
    """The constants of `with_ranges`, c * sum of the channel's weights added to the bias (modulo 2^32)."""
    constants = with_ranges(request, numbers, weight)
    sums = numbers.weight.astype(np.int64).sum(axis=(1, 2, 3)) * centre(request.precision.activation_bits)
    bias = constants[1].astype(np.int64)
    bias[: len(sums)] += sums
    constants[1] = bias.astype(np.int32)
    return constants
