"""The precision `fp16`: a convolution of halves (IEEE binary16: one sign, five exponent and ten fraction bits).

Tensors between operators stay float32. Inputs and weights are rounded to halves, nearest even; inputs beyond +-65504
become +-65504, infinite ones too, and NaN stays NaN. Products meet in fused multiply-adds of halves, one rounding each,
block by block of at most `BLOCK_TERMS` terms. Sums of blocks are added up in float32, in order.

No sum of a block can overflow, whatever the inputs: before they are rounded, the weights of each output channel are
multiplied by the power of two at which the sizes of a block's weights just add up to less than 1. The sum is multiplied
by its inverse, which is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.conv import float_conv2d
from tvm_mpq.schema import Conv2dWorkload

BLOCK_TERMS = 64
"""Most terms that are added up in halves: the error grows with them, the time of widening falls with them."""
LARGEST = 65504.0
"""The largest half."""
_UNIT = 2.0**-11
_SMALLEST = 2.0**-24
_LEAST_NORMAL = 2.0**-14
_MOST_DOUBLINGS = 100
"""Of a scale: its inverse, and sums times that, are normal float32."""

_AT_ONCE = 1 << 14
"""Outputs that are computed together: they stay in a first-level cache."""

HalfArray = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Blocks:
    """How the terms of an output, kernel row by kernel row, column by column, channel by channel, are cut into blocks.

    rows: (kernel rows of a block, how many such blocks), where blocks are whole kernel rows, else empty; columns:
    positions of a kernel row that are cut each for itself; steps: (terms of a block, how many) that these are cut into.
    """

    kernel_rows: int
    rows: tuple[tuple[int, int], ...]
    columns: int
    steps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, kernel: tuple[int, int], channels: int, merged: bool) -> Blocks:
        """channels: of a group; merged: whether the inputs of a kernel row lie side by side."""
        height, width = kernel
        row = width * channels
        if row <= BLOCK_TERMS:
            return cls(height, _cut(height, BLOCK_TERMS // row), 1, ((row, 1),))
        columns, run = (1, row) if merged else (width, channels)
        return cls(height, (), columns, _cut(run, BLOCK_TERMS))

    def sizes(self) -> list[int]:
        """Terms of each block, in order."""
        run = [size for size, count in self.steps for _ in range(count)]
        if self.rows:
            return [rows * run[0] for rows, count in self.rows for _ in range(count)]
        return run * (self.columns * self.kernel_rows)


def blocks_of(w: Conv2dWorkload) -> Blocks:
    """Of a convolution without input dilation."""
    merged = w.groups == 1 and (w.dilation[1] == 1 or w.kernel[1] == 1)
    return Blocks.of(w.kernel, w.in_channels // w.groups, merged)


def to_halves(x: npt.NDArray[Any]) -> HalfArray:
    """float16[same shape]: the nearest half, ties to even; what is too large becomes the largest one.

    >>> to_halves(np.float32([1.0, 1.00049, 70000, -np.inf, 1e-8])).tolist()
    [1.0, 1.0009765625, 65504.0, -65504.0, 0.0]
    """
    return np.clip(np.asarray(x, np.float32), -LARGEST, LARGEST).astype(np.float16)


def scaled_weight(w: Conv2dWorkload, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """float32[O, KH, KW, I]: the weights times their channel's power of two; float32[O]: the inverses of these."""
    terms = np.abs(weight.reshape(w.out_channels, -1)).astype(np.float64)
    starts = np.cumsum([0, *blocks_of(w).sizes()[:-1]])
    most = np.add.reduceat(terms, starts, axis=1).max(axis=1)
    # What rounding the weights and each partial sum can add: a part of 2^-11 for every one of them.
    limit = 1 - (BLOCK_TERMS + 2) * _UNIT
    with np.errstate(divide="ignore"):
        doublings = np.floor(np.log2(limit / most))
    scale = np.exp2(np.clip(doublings, -_MOST_DOUBLINGS, _MOST_DOUBLINGS))
    scaled = weight * scale.reshape(-1, 1, 1, 1)
    return scaled.astype(np.float32), (1 / scale).astype(np.float32)


def fma16(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """round_to_half(a * b + c), rounded once (half to even), broadcasting; all of them halves, held as float32.

    The product is exact in float32. Its sum with c, rounded there, says which half is nearest, unless it lies in the
    middle between two halves, where what was lost decides, or the half is subnormal.
    """
    total = a * b
    total += c
    bits = total.view(np.int32)
    doubtful = ((bits & 0x1FFF) == 0x1000) | ((np.abs(total) < _LEAST_NORMAL) & (total != 0))
    places = np.nonzero(doubtful)
    once = [np.broadcast_to(v, total.shape)[places] for v in (a, b, c)] if places[0].size else []
    bits += 0xFFF  # up from beyond the middle; the middle itself is doubtful
    bits &= ~0x1FFF
    if once:
        total[places] = _fma16_exact(*once)
    return total


def _fma16_exact(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """The same, as `fma.fma32` does it: the sum is rounded to odd, which makes the second rounding a single one."""
    product = a * b
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    # One towards `error` in the last place of an even `total`: up where both have one sign, else down.
    bits = total.view(np.int32)
    towards = np.where((error > 0) == (bits >= 0), 1, -1).astype(np.int32)
    bits += towards * ((error != 0) & (bits & 1 == 0))
    return np.asarray(total.astype(np.float16).astype(np.float32))


def conv_of_halves(x: FloatArray, weight: FloatArray, bias: FloatArray | None, w: Conv2dWorkload) -> FloatArray:
    """float32[N, OH, OW, O]: the sums and the bias, before residual and activation.

    Parameters
    ----------
    x : float32[N, H, W, C]
    weight : float32[O, KH, KW, C / groups]
    bias : float32[O] or None
    """
    scaled, inverse = scaled_weight(w, weight)
    packed = to_halves(scaled).astype(np.float32).reshape(w.groups, w.out_channels // w.groups, -1)
    by_term = np.ascontiguousarray(np.moveaxis(packed, -1, 0))  # [term, group, output]
    padded = np.pad(to_halves(x).astype(np.float32), ((0, 0), w.padding[::2], w.padding[1::2], (0, 0)))
    terms = np.stack([term.reshape(-1, w.groups, 1) for term in _terms(padded, w)])  # [term, position, group, 1]
    total = np.zeros((terms.shape[1], *by_term.shape[1:]), np.float32)
    at_once = max(1, _AT_ONCE // w.out_channels)
    for first in range(0, len(total), at_once):
        part = slice(first, first + at_once)
        start = 0
        for size in blocks_of(w).sizes():
            block = np.zeros_like(total[part])
            for i in range(start, start + size):
                block = fma16(terms[i, part], by_term[i], block)
            total[part] += block
            start += size
    y = total.reshape(w.batch, w.out_height, w.out_width, w.out_channels) * inverse
    return y if bias is None else np.asarray(y + bias, np.float32)


def sum_bound(w: Conv2dWorkload, x: FloatArray, weight: FloatArray) -> npt.NDArray[np.float64]:
    """float64[N, OH, OW, O]: how far `conv_of_halves` can be from exact arithmetic on the same halves.

    Each of a block's roundings is by a part of 2^-11 of what has been added up, or by half the smallest half; the sum
    of blocks rounds once a block.
    """
    sizes = blocks_of(w).sizes()
    linear = replace(w, residual=False, activation="none")
    scaled, inverse = scaled_weight(w, weight)
    halves = [np.abs(to_halves(a).astype(np.float32)) for a in (x, scaled)]
    magnitude = float_conv2d(halves[0], halves[1], None, linear).astype(np.float64) * inverse * (1 + 2.0**-20)
    most = max(sizes)
    relative = most * _UNIT / (1 - most * _UNIT) + (len(sizes) + 2) * 2.0**-24
    return np.asarray(relative * magnitude + sum(sizes) * _SMALLEST / 2 * inverse.astype(np.float64))


def _cut(count: int, most: int) -> tuple[tuple[int, int], ...]:
    """As few parts of at most `most` as there can be, as even as can be: (size, how many).

    >>> _cut(7, 3), _cut(128, 64)
    (((3, 1), (2, 2)), ((64, 2),))
    """
    parts = math.ceil(count / most)
    size, larger = divmod(count, parts)
    return tuple((n, times) for n, times in ((size + 1, larger), (size, parts - larger)) if times)


def _terms(padded: FloatArray, w: Conv2dWorkload) -> Iterator[FloatArray]:
    """float32[N, OH, OW, groups] for each term: what its weight meets at every output position."""
    by_group = padded.reshape(*padded.shape[:3], w.groups, -1)
    for ky, kx in itertools.product(range(w.kernel[0]), range(w.kernel[1])):
        y, x = ky * w.dilation[0], kx * w.dilation[1]
        under = by_group[:, y :: w.stride[0], x :: w.stride[1]][:, : w.out_height, : w.out_width]
        for channel in range(w.in_channels // w.groups):
            yield under[..., channel]
