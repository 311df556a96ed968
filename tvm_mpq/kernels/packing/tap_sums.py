"""Depthwise weights for products of bytes whose sums stay in 16 bits: how taps are paired, split and added up.

Two taps make one product of 32 bytes: two rows of one kernel column or, in the last row of an odd kernel, two columns.
Weights whose sums would not fit are split into two planes, w = low + 16 * high with |low|, |high| <= 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks, conv_of
from tvm_mpq.numerics.affine import unsigned_range, weight_range
from tvm_mpq.numerics.arrays import Int8Array

GROUP = 2 * BLOCK
"""Channels that are computed together."""

HALVES = tuple((*range(i, i + 8), *range(BLOCK + i, BLOCK + i + 8)) for i in (0, 8))
"""Channels of the two vectors that interleaving the bytes of a group makes, within lanes of 128 bits."""

QUADS = ((0, BLOCK), (4, BLOCK + 4), (8, BLOCK + 8), (12, BLOCK + 12))
"""Where the quads of a group's four vectors of 32 bit sums begin."""

_HIGHEST_SUM = 32767
_PLANE = 16  # what a weight of the second plane is worth
_MOST_SUMS = 4  # in 16 bits, of one output: more do not fit the registers beside inputs

Tap = tuple[int, int]
"""Kernel row and column."""


@dataclass(frozen=True)
class TapSums:
    """How the taps of a kernel of `rows` x `columns` are added up.

    planes: one or two, of weights; sums: for each pair of taps, in the order of `pairs`, which of a plane's sums it
    enters.
    """

    rows: int
    columns: int
    planes: int
    sums: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[Tap, Tap | None]]:
        """Taps that are multiplied together, those of two rows first; a last one may be alone."""
        return _pairs(self.rows, self.columns)

    @property
    def count(self) -> int:
        """Sums of one plane."""
        return 1 + max(self.sums)

    @property
    def factors(self) -> list[int]:
        """What each sum is worth, plane by plane."""
        return [worth for worth in (1, _PLANE)[: self.planes] for _ in range(self.count)]


def _pairs(rows: int, columns: int) -> list[tuple[Tap, Tap | None]]:
    found: list[tuple[Tap, Tap | None]] = [((r, c), (r + 1, c)) for r in range(0, rows - 1, 2) for c in range(columns)]
    if rows % 2:
        found += [((rows - 1, c), (rows - 1, c + 1) if c + 1 < columns else None) for c in range(0, columns, 2)]
    return found


def tap_sums(request: Request) -> TapSums | None:
    """The way that takes the fewest products and then the fewest sums; None where no few sums hold them."""
    rows, columns = conv_of(request).kernel
    sizes = [1 if second is None else 2 for _, second in _pairs(rows, columns)]
    p = request.precision
    top, greatest = unsigned_range(p.activation_bits)[1], weight_range(p.weight_bits)[1]
    for planes, weight in ((1, greatest), (2, _PLANE // 2)):
        held = _HIGHEST_SUM // (top * weight)  # taps
        sums = _spread(sizes, held)
        if sums is not None and planes * (1 + max(sums)) <= _MOST_SUMS:
            if planes == 1 and max(sums) == 0 and len(sums) > 1:  # two are widened as one is
                sums = [int(i >= len(sums) // 2) for i in range(len(sums))]
            return TapSums(rows, columns, planes, tuple(sums))
    return None


def _spread(sizes: list[int], held: int) -> list[int] | None:
    """Which sum each pair of taps enters, sums filled one after the other; None where one pair does not fit."""
    if held < max(sizes):
        return None
    sums, number, taken = list[int](), 0, 0
    for size in sizes:
        if taken + size > held:
            number, taken = number + 1, 0
        sums.append(number)
        taken += size
    return sums


def group_starts(channels: int) -> list[int]:
    """The first channel of each group; the last one ends with the last block of 16 and may overlap."""
    stored = blocks(channels) * BLOCK
    return [min(g * GROUP, stored - GROUP) for g in range(tiles(stored, GROUP))]


def pack_taps(weight: Int8Array, way: TapSums) -> npt.NDArray[np.int8]:
    """int8[C, KH, KW, 1] -> int8[groups, pairs, planes, 2, 16, 2], the channels of a half in the order of `HALVES`."""
    full = np.zeros((blocks(len(weight)) * BLOCK, way.rows, way.columns), np.int8)
    full[: len(weight)] = weight[..., 0]
    low = (full + np.int8(0) if way.planes == 1 else ((full.astype(np.int16) + 8) % _PLANE - 8)).astype(np.int8)
    planes = [low, ((full.astype(np.int16) - low) // _PLANE).astype(np.int8)][: way.planes]
    none = np.zeros(len(full), np.int8)
    pairs = [
        np.stack([np.stack([p[:, a[0], a[1]], none if b is None else p[:, b[0], b[1]]], -1) for p in planes])
        for a, b in way.pairs
    ]
    packed = np.stack(pairs)  # [pairs, planes, C, 2]
    order = np.array(group_starts(len(weight)))[:, None, None] + np.array(HALVES)  # [groups, 2, 16]
    return np.ascontiguousarray(packed[:, :, order].transpose(2, 0, 1, 3, 4, 5))
