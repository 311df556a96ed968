"""How weights of 1, 2 and 4 bits lie in bytes: fields of a byte, and tiles in the order in which the kernel reads them.

A weight is w = step * u - offset with an unsigned u. Let activations be x = s + sign; then

    sum w * (x - zero point) = step * sum u * s - offset * sum s + (sign - zero point) * sum w

of which the first term is the work, the second one number for each row, the third a constant of the channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics.arrays import ByteArray, Int8Array
from tvm_mpq.schema import Conv2dWorkload

SIGN_BIT = 128
"""x - 128 as a signed byte is x with its top bit turned over."""
QUAD = 4
"""Bytes of an output channel in one step, which one int32 lane adds up."""
_SLACK = 16  # bytes: what wide loads read past the last step's activations


@dataclass(frozen=True)
class ByteCoding:
    """bits: of a field of a byte; greatest: the greatest u; inputs: input channels in four bytes of an output channel.

    The fields of a byte belong to different output channels.
    """

    bits: int
    step: int
    offset: int
    greatest: int
    inputs: int = QUAD

    @property
    def fields(self) -> int:
        """Fields of a byte."""
        return 8 // self.bits


_FIELDS = {
    1: ByteCoding(bits=1, step=2, offset=1, greatest=1),  # -1 and 1
    2: ByteCoding(bits=2, step=1, offset=1, greatest=2),  # -1..1
    3: ByteCoding(bits=4, step=1, offset=7, greatest=14),
    4: ByteCoding(bits=4, step=1, offset=7, greatest=14),  # -7..7
}


def field_coding(request: Request) -> ByteCoding:
    """One field for each weight."""
    return _FIELDS[request.precision.weight_bits]


@dataclass(frozen=True)
class LinearShape:
    """A tile is `parts` vectors of `lanes` output channels for all rows; a step takes `coding.inputs` input channels.

    Output channels are cut into tiles of the same size; where they do not divide, the last tile is moved back and
    computes some channels twice. Part p of a tile is field p % fields of its byte vector p // fields. Input channels
    are filled up to trips * depth steps.
    """

    rows: int
    channels: int  # input channels
    all_parts: int
    parts: int
    lanes: int
    trips: int
    depth: int
    coding: ByteCoding

    @classmethod
    def of(cls, w: Conv2dWorkload, coding: ByteCoding, lanes: int, stored: int, parts: int, depth: int) -> LinearShape:
        """For `stored` output channels, at most `parts` parts of a tile and at most `depth` steps of a trip."""
        all_parts, steps = tiles(stored, lanes), tiles(w.in_channels, coding.inputs)
        trips = tiles(steps, depth)
        return cls(
            rows=w.batch * w.out_height * w.out_width,
            channels=w.in_channels,
            all_parts=all_parts,
            parts=even_tile(all_parts, parts),
            lanes=lanes,
            trips=trips,
            depth=tiles(steps, trips),
            coding=coding,
        )

    @property
    def tiles(self) -> int:
        """Of all output channels."""
        return tiles(self.all_parts, self.parts)

    @property
    def firsts(self) -> list[int]:
        """The first part of each tile."""
        return [min(t * self.parts, self.all_parts - self.parts) for t in range(self.tiles)]

    @property
    def steps(self) -> int:
        """Of one tile."""
        return self.trips * self.depth

    @property
    def vectors(self) -> int:
        """Byte vectors of one step of a tile."""
        return tiles(self.parts, self.coding.fields)

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector of weights."""
        return self.lanes * QUAD

    @property
    def step_bytes(self) -> int:
        """Bytes of weights of one step of a tile."""
        return self.vectors * self.vector_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of signed activations."""
        return self.steps * self.coding.inputs + _SLACK

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: tile after tile, in the order in which they are read."""
        return (self.tiles, self.steps, self.vectors, self.lanes, QUAD)

    def fields_of(self, vector: int) -> int:
        """How many fields of a byte vector are in use."""
        return min(self.coding.fields, self.parts - vector * self.coding.fields)


def unsigned_codes(weight: Int8Array, shape: LinearShape) -> ByteArray:
    """int8[O, I] -> u of each weight, uint8[O, steps * inputs of a step]; missing inputs have 0."""
    coding = shape.coding
    codes = ((weight + np.int8(coding.offset)) // coding.step).astype(np.uint8)
    return np.pad(codes, [(0, 0), (0, shape.steps * coding.inputs - weight.shape[1])])


def pack_tiles(codes: ByteArray, shape: LinearShape) -> ByteArray:
    """uint8[O, steps, 4] in the fields' range -> uint8[`shape.weight_shape`]; missing outputs and fields are 0."""
    fields, parts = shape.coding.fields, shape.parts
    wide = np.pad(codes, [(0, shape.all_parts * shape.lanes - len(codes)), (0, 0), (0, 0)])
    blocked = wide.reshape(shape.all_parts, shape.lanes, shape.steps, QUAD)
    found = blocked[np.add.outer(shape.firsts, np.arange(parts))]
    found = np.pad(found, [(0, 0), (0, shape.vectors * fields - parts), (0, 0), (0, 0), (0, 0)])
    split = found.reshape(shape.tiles, shape.vectors, fields, *blocked.shape[1:])
    shifts = (np.arange(fields) * shape.coding.bits).astype(np.uint8)
    packed = np.bitwise_or.reduce(split << shifts[:, None, None, None], axis=2)
    return np.ascontiguousarray(packed.transpose(0, 3, 1, 2, 4))
