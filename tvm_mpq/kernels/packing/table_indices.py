"""Weights of one and two bits as indices of tables of 64 bytes: what an index and an entry of a table mean."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks
from tvm_mpq.kernels.shapes.lookup import LookupShape
from tvm_mpq.numerics.arrays import ByteArray, Int8Array
from tvm_mpq.schema import Conv2dWorkload

TABLE_BYTES = 64
SLOTS = 4
"""Bytes that one vpdpbusd adds to an accumulator: look-ups of one step and output channel."""
_MOST = 4  # looked-up bytes added before they are widened; more win nothing


@dataclass(frozen=True)
class TableCoding:
    """Tables of `groups` groups of `group` activations: entry [q * 2^group + e] is a sum over group q chosen by e.

    Weights of two bits are two's complement: entries are sums of the activations whose bit is set in e, and the four
    look-ups of a channel are (bit 0, bit 1) of group 0 and of group 1, weighted (1, -2, 1, -2). Weights of one bit are
    -1 and +1: entries are signed sums, those whose bit is not set count negative, one look-up a group.
    """

    weight_bits: int
    group: int
    groups: int
    signed: bool
    together: int  # tables made from one vector of partial sums

    @property
    def channels(self) -> int:
        """Activations of one table."""
        return self.group * self.groups

    @property
    def planes(self) -> int:
        """Bits of a weight that are looked up one by one."""
        return SLOTS // self.groups

    def sums_limit(self, activation_bits: int) -> int:
        """How many looked-up bytes may be added before they overflow; 0 when not even one fits.

        >>> [CODINGS[2].sums_limit(b) for b in (2, 3, 4, 5, 6)], [CODINGS[1].sums_limit(b) for b in (2, 3, 4, 5, 6)]
        ([4, 4, 3, 1, 0], [4, 4, 2, 1, 0])
        """
        return min(_MOST, (127 if self.signed else 255) // (self.group * ((1 << activation_bits) - 1)))


CODINGS = {
    2: TableCoding(weight_bits=2, group=5, groups=2, signed=False, together=3),
    1: TableCoding(weight_bits=1, group=4, groups=4, signed=True, together=2),
}


def table_coding(request: Request) -> TableCoding:
    """The coding of the request's weights."""
    return CODINGS[request.precision.weight_bits]


def even_parts(count: int, limit: int) -> list[tuple[int, int]]:
    """(start, stop) of the fewest parts of `count` things that hold at most `limit`, as even as can be.

    >>> even_parts(5, 3), even_parts(6, 4), even_parts(2, 4)
    ([(0, 3), (3, 5)], [(0, 3), (3, 6)], [(0, 2)])
    """
    parts = tiles(count, limit)
    ends = [tiles(count * i, parts) for i in range(parts + 1)]
    return list(itertools.pairwise(ends))


@dataclass(frozen=True)
class TableShape(LookupShape):
    """`LookupShape` over tables of 64 bytes, for ten (weights of two bits) or sixteen (one bit) input channels."""

    @classmethod
    def of(cls, w: Conv2dWorkload, coding: TableCoding) -> TableShape:
        """The shape of the convolution `w`."""
        return cls.covering(w, coding.channels)

    def order(self, depth: int) -> list[tuple[int, int]]:
        """(table, kernel column) of the look-ups of one kernel row.

        A step takes `depth` tables of all kernel columns, so that neighbouring positions share what it loads.
        """
        steps = range(0, self.tables, depth)
        return [(t, k) for s in steps for t in range(s, min(s + depth, self.tables)) for k in range(self.kernel[1])]

    @property
    def row_bytes(self) -> int:
        """Tables of one row."""
        return self.columns * self.tables * TABLE_BYTES


def index_shape(shape: TableShape, outputs: int) -> tuple[int, int, int, int]:
    """Shape of what `pack_indices` returns for so many output channels."""
    return (blocks(outputs), shape.kernel[0] * shape.lookups, BLOCK, SLOTS)


def pack_indices(weight: Int8Array, shape: TableShape, coding: TableCoding, depth: int) -> ByteArray:
    """int8[O, KH, KW, I] -> uint8[ceil(O/16), KH * KW * tables, 16, 4], look-ups in the order of `shape.order(depth)`.

    The four bytes of an output channel are bit planes of the groups: (0, 0), (1, 0), (0, 1), (1, 1) as (plane, group)
    of two's complement weights in [-2, 1]; with one plane, whose bits are those of positive weights in {-1, 1}, the
    groups 0..3. A byte has one bit for each activation, and above them its group. Missing input channels have no bit
    set: their activations are chosen by no entry, or are 0 in the table. Missing output channels hold anything.
    """
    o, kh, kw, channels = weight.shape
    bits = (weight > 0).astype(np.uint8) if coding.planes == 1 else weight.view(np.uint8)
    missing = blocks(o) * BLOCK - o, shape.tables * coding.channels - channels
    wide = np.pad(bits, [(0, missing[0]), (0, 0), (0, 0), (0, missing[1])])
    groups = wide.reshape(-1, kh, kw, shape.tables, coding.groups, coding.group)
    planes = np.stack([(groups >> p) & 1 for p in range(coding.planes)], axis=-2)  # [..., group, plane, activation]
    index = (planes << np.arange(coding.group, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
    index += (np.arange(coding.groups, dtype=np.uint8) << coding.group)[:, None]
    index = index.reshape(-1, kh, kw, shape.tables, SLOTS)
    taken, columns = zip(*shape.order(depth), strict=True)
    ordered = index[:, :, list(columns), list(taken)]
    blocked = ordered.reshape(blocks(o), BLOCK, kh * shape.lookups, SLOTS)
    return np.ascontiguousarray(blocked.transpose(0, 2, 1, 3))
