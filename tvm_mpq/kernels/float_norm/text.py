"""Text of vectors of bytes and floats."""

from __future__ import annotations

from tvm_mpq.kernels.tir import ramp

_MAGIC = "T.float32(12582912.0)"  # 1.5 * 2^23: adding it rounds |y| < 2^22 half to even into the float's low bits


def rounded(y: str, lanes: int) -> str:
    """clamp(rint(y) + zero_point, lo, hi) as bytes; the clamp comes first, at the same integers, so nothing overflows.

    max before min: a NaN becomes the lower bound.
    """
    clamped = f"T.min(T.max({y}, {splat('y_lo', lanes)}), {splat('y_hi', lanes)})"
    bits = f'T.reinterpret("{lane_type("int32", lanes)}", {clamped} + {splat(_MAGIC, lanes)})'
    return f'T.Cast("{lane_type("uint8", lanes)}", {bits}) + {splat("z_byte", lanes)}'


def vec(buffer: str, start: str, lanes: int) -> str:
    """`lanes` neighbours of a flat buffer."""
    return f"{buffer}[{start}]" if lanes == 1 else f"{buffer}[{ramp(start, lanes)}]"


def splat(value: str, lanes: int) -> str:
    return value if lanes == 1 else f"T.Broadcast({value}, {lanes})"


def lane_type(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"
