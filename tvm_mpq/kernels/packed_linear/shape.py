"""Loop extents of a linear layer: rows, tiles of output channels, and steps of the sum."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.packed_linear.coding import Coding
from tvm_mpq.schema import Conv2dWorkload

QUAD = 4
"""Bytes of an output channel in one step, which one int32 lane adds up."""
_SLACK = 16  # bytes: what wide loads read past the last step's activations


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
    coding: Coding

    @classmethod
    def of(cls, w: Conv2dWorkload, coding: Coding, lanes: int, stored: int, parts: int, depth: int) -> LinearShape:
        """For `stored` output channels, at most `parts` parts of a tile and at most `depth` steps of a trip."""
        all_parts, steps = -(-stored // lanes), -(-w.in_channels // coding.inputs)
        trips = -(-steps // depth)
        return cls(
            rows=w.batch * w.out_height * w.out_width,
            channels=w.in_channels,
            all_parts=all_parts,
            parts=even_tile(all_parts, parts),
            lanes=lanes,
            trips=trips,
            depth=-(-steps // trips),
            coding=coding,
        )

    @property
    def tiles(self) -> int:
        return tiles(self.all_parts, self.parts)

    @property
    def firsts(self) -> list[int]:
        """The first part of each tile."""
        return [min(t * self.parts, self.all_parts - self.parts) for t in range(self.tiles)]

    @property
    def steps(self) -> int:
        return self.trips * self.depth

    @property
    def vectors(self) -> int:
        """Byte vectors of one step of a tile."""
        return -(-self.parts // self.coding.fields)

    @property
    def vector_bytes(self) -> int:
        return self.lanes * QUAD

    @property
    def step_bytes(self) -> int:
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
