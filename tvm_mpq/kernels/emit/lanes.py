"""Across the lanes of vectors: reductions and transposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_mpq.kernels.emit.code import let
from tvm_mpq.kernels.emit.value import Value, shuffle

_LANE_BYTES = 16
_BYTES = {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "float32": 4}


def across(x: Value, join: Callable[[Value, Value], Value]) -> Value:
    """All lanes of `x`, a power of two, joined to a scalar: halves first, then their halves."""
    while x.lanes > 1:
        half = x.lanes // 2
        x = let(join(let(x.lanes_of(range(half))), let(x.lanes_of(range(half, 2 * half)))))
    return x


def transposed(rows: Sequence[Value]) -> list[Value]:
    """Lane j of row i as lane i of row j, for as many rows as lanes, a power of two.

    log2(lanes) rounds of two-vector shuffles. A round exchanges, between the vectors i and i + half, the lanes whose
    number has the bit of `half` set.
    """
    lanes, turned = len(rows), list(rows)
    half = lanes // 2
    while half:
        low = [lanes + n - half if n & half else n for n in range(lanes)]
        high = [lanes + n if n & half else n + half for n in range(lanes)]
        for i in range(lanes):
            if not i & half:
                pair = turned[i], turned[i + half]
                turned[i], turned[i + half] = let(shuffle(pair, low)), let(shuffle(pair, high))
        half //= 2
    return turned


def unpack(first: Value, second: Value, half: int) -> Value:
    """Elements of two equal vectors alternating, from the low (0) or high (1) half of each lane of 128 bits."""
    per_lane, order = _LANE_BYTES // _BYTES[first.dtype], list[int]()
    for lane in range(0, first.lanes, per_lane):
        start = lane + per_lane // 2 * half
        order += [n for i in range(start, start + per_lane // 2) for n in (i, first.lanes + i)]
    return shuffle([first, second], order)
