"""Weights of one to three bits as indices of tables of 16 entries, and the bounds that keep looked-up sums exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, stored_channels
from tvm_mpq.kernels.shapes.lookup import LookupShape
from tvm_mpq.numerics.arrays import ByteArray, Int8Array
from tvm_mpq.schema import Conv2dWorkload

GROUP = 4
"""Activations of one table."""
TABLE_BYTES = 16
_MOST_SUMS = 4


@dataclass(frozen=True)
class NibbleCoding:
    """A weight is factor * u - offset, and u a number of a few bits, or of two bits that are worth the same.

    So the sum of products is factor * (sum of what the bits look up) - offset * (sum of the activations). `planes` bits
    of ascending worth 1, 2, 4 have vectors of their own; `beside` bits of equal worth are neighbours in one.
    """

    planes: int
    beside: int
    factor: int
    offset: int

    @property
    def part_channels(self) -> int:
        """Output channels of one vector: 16 bytes hold each channel's bits of one plane and table."""
        return BLOCK // self.beside

    def bits(self, weight: Int8Array) -> npt.NDArray[np.bool_]:
        """int8[...] -> bool[..., planes, beside]. A weight of one bit that is 0 counts as negative."""
        u = ((weight + self.offset) // self.factor)[..., None, None]
        bits = u > np.arange(self.beside) if self.beside > 1 else u >> np.arange(self.planes)[:, None] & 1
        return np.asarray(bits, np.bool_)

    def lookups_limit(self, activation_bits: int) -> int:
        """How many tables one 16 bit counter may take: each adds an entry for every bit beside another.

        >>> CODINGS[2].lookups_limit(5), CODINGS[1].lookups_limit(4), CODINGS[3].lookups_limit(4)
        (264, 1092, 1092)
        """
        return 65535 // (self.beside * greatest(activation_bits))


CODINGS = {
    1: NibbleCoding(planes=1, beside=1, factor=2, offset=1),  # -1 and 1
    2: NibbleCoding(planes=1, beside=2, factor=1, offset=1),  # -1, 0 and 1: no bit, one and two
    3: NibbleCoding(planes=3, beside=1, factor=1, offset=3),  # -3..3
}


def nibble_coding(request: Request) -> NibbleCoding:
    """The coding of the request's weights."""
    return CODINGS[request.precision.weight_bits]


def part_count(request: Request) -> int:
    """Vectors of output channels that cover all stored channels."""
    return tiles(stored_channels(request), nibble_coding(request).part_channels)


def greatest(activation_bits: int) -> int:
    """The greatest entry of a table.

    >>> greatest(4)
    60
    """
    return GROUP * ((1 << activation_bits) - 1)


def sums_limit(activation_bits: int) -> int:
    """How many looked-up bytes may be added before they overflow, an even number; 0 when not even two fit.

    >>> [sums_limit(b) for b in (2, 3, 4, 5, 6)]
    [4, 4, 4, 2, 0]
    """
    return min(_MOST_SUMS, 255 // greatest(activation_bits)) // 2 * 2


@dataclass(frozen=True)
class NibbleShape(LookupShape):
    """`LookupShape` over tables of 16 bytes, the subset sums of four activations.

    Entry e is the sum of the activations whose bit is set in e. `count` below is the number of tables of one step.
    """

    @classmethod
    def of(cls, w: Conv2dWorkload) -> NibbleShape:
        """The shape of the convolution `w`."""
        return cls.covering(w, GROUP)

    def steps(self, count: int) -> int:
        """Steps of one kernel row, the last one perhaps not full."""
        return tiles(self.lookups, count)

    def slack(self, count: int) -> int:
        """Tables that the last step reads past the window; weights have index 0 there."""
        return self.steps(count) * count - self.lookups

    def table_row_bytes(self, count: int) -> int:
        """Tables of one row, those that its last step reads past them, and a whole number of 64 bytes."""
        return tiles((self.columns * self.tables + self.slack(count) + 1) * TABLE_BYTES, 64) * 64


def nibble_shape(shape: NibbleShape, coding: NibbleCoding, parts: int, sums: int) -> tuple[int, ...]:
    """Shape of what `pack_nibbles` returns."""
    return (parts, coding.planes, shape.kernel[0] * shape.steps(2 * sums) * sums // 2, 2, TABLE_BYTES)


def pack_nibbles(
    weight: Int8Array,
    shape: NibbleShape,
    coding: NibbleCoding,
    parts: int,
    sums: int,
    byte_channels: Sequence[int],
) -> ByteArray:
    """int8[O, KH, KW, I] -> uint8[parts, planes, KH * steps * sums / 2, 2, 16].

    Vector i of a step holds tables 4i and 4i + 1 of the step in the low nibbles of its two rows of 16 bytes, tables
    4i + 2 and 4i + 3 in the high ones. Two bits that stand beside each other are bytes 2j and 2j + 1 of a row, for
    output channel 8 * part + j; a single one is byte j of a row, for channel 16 * part + byte_channels[j]. What is
    missing (channels, tables of the last step) has no bit set and finds entry 0, which is 0 in every table.
    """
    o, kh, kw, channels = weight.shape
    width = coding.part_channels
    padding = [(0, parts * width - o), (0, 0), (0, 0), (0, shape.tables * GROUP - channels), (0, 0), (0, 0)]
    bits = np.pad(coding.bits(weight), padding)
    groups = bits.reshape(parts * width, kh, kw * shape.tables, GROUP, coding.planes, coding.beside)
    index = (groups << np.arange(GROUP, dtype=np.uint8)[:, None, None]).sum(axis=3, dtype=np.uint8)
    index = np.pad(index, [(0, 0), (0, 0), (0, shape.slack(2 * sums)), (0, 0), (0, 0)])
    # [part, channel, vector, nibble, row, plane, bit] -> [part, plane, vector, nibble, row, channel, bit]
    split = index.reshape(parts, width, -1, 2, 2, coding.planes, coding.beside)
    if coding.beside == 1:
        split = split[:, list(byte_channels)]
    ordered = split.transpose(0, 5, 2, 3, 4, 1, 6).reshape(parts, coding.planes, -1, 2, 2, TABLE_BYTES)
    return np.ascontiguousarray(ordered[:, :, :, 0] | (ordered[:, :, :, 1] << 4))
