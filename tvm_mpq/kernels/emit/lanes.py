"""Across the lanes of vectors: reductions and transposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_mpq.kernels.emit.code import let
from tvm_mpq.kernels.emit.value import Value, shuffle


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
