"""The frame of every dense integer convolution: tiles of positions x channels, borders, threads, requantization.

Input rows that need padding are first copied into a scratch whose border holds the zero point (`border.py`), and so
are those that the machine reads in another type. A tile is `rows` x `columns` output positions x `blocks` * 16
channels, all accumulators in registers. Where rows do not divide the map, the last tile is moved back and computes some
positions twice; where columns do not, some tiles are narrower. The channels that the tiles leave over are a narrower
tile of their own; half a block of them takes half a vector where the machine has one (`Dot.halves`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mpq.kernels.emit import (
    Parameter,
    even_blocks,
    even_tile,
    split_axis,
    tiles,
)
from tvm_mpq.kernels.frames.machine import ConvolutionMachine, Dot
from tvm_mpq.kernels.frames.requantize import convolution_parameters
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import (
    BLOCK,
    ChannelTiles,
    ChannelWindow,
    Geometry,
    blocks,
    conv_of,
    has_half,
    tile_channels,
    useful_threads,
)
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work

_BAND_BYTES = 1 << 17
"""A quarter of a small second-level cache."""
_LANE_TERMS = 4
"""Products of bytes that one vector multiply-add adds to a 32 bit lane, as work is counted."""


@dataclass(frozen=True)
class LaneVector:
    """One accumulator of each position of a tile: `lanes` channels, `offset` channels from the tile's first."""

    offset: int
    lanes: int


class ConvolutionFrame:
    """Plans one convolution's loops from tile knobs {"rows", "columns", "blocks", "order"}."""

    def __init__(self, request: Request, knobs: Knobs, machine: ConvolutionMachine) -> None:
        self.machine, self.request, self.workload = machine, request, conv_of(request)
        self.threads = useful_threads(self.workload, request.threads)
        self.g = Geometry.of(self.workload, request.out_bits)
        self.rows = min(knobs["rows"], self.g.least_height)
        self.columns = min(knobs["columns"], self.g.least_width)
        self.window = ChannelWindow.of(self.workload, machine.channels)
        self.all_blocks = blocks(self.workload.out_channels)
        self.blocks = min(knobs["blocks"], self.all_blocks) if self.workload.groups == 1 else 1
        self.by_channels = knobs["order"] == "channels"
        self.counts = {
            "n": self.g.batch,
            "h": tiles(self.g.out_height, self.rows),
            "w": tiles(self.g.out_width, self.columns),
            "g": tiles(self.all_blocks, self.blocks),
        }
        self.steps = self.g.kernel[0] * self.g.kernel[1] * self.window.cells // machine.channels
        self.block_bytes = machine.block_bytes(self.steps)
        shape = machine.packed_shape(self.all_blocks * self.g.phase_count, self.steps)
        self.weight = Parameter("weight", shape, machine.weight_dtype)
        self.x_size = self.g.batch * self.g.in_height * self.g.in_width * self.g.in_cells
        order = "gnhw" if self.all_blocks * self.block_bytes > self.x_size else "nhwg"
        self.split = split_axis({axis: self.counts[axis] for axis in order}, self.threads)
        if self.threads > 1 and self.split == "g":  # equal tiles, which any number of threads can share
            self.parts = [ChannelTiles(0, self.counts["g"], self.blocks, False, True)]
        else:
            half = has_half(request, isinstance(machine, Dot) and machine.halves)
            self.parts = tile_channels(self.all_blocks, self.blocks, half)

    @property
    def band(self) -> int:
        """Rows of tiles whose inputs are copied together: few enough for a near cache, where all channels follow."""
        g, most = self.g, self.counts["h"]
        if self.machine.input_dtype == "uint8" or self.by_channels or g.phases is not None:
            return most
        row_bytes = g.row_width * g.in_cells * np.dtype(self.machine.input_dtype).itemsize
        rows = 1 + (_BAND_BYTES // row_bytes - g.reach(0, 1)) // g.stride[0]
        return even_tile(most, max(1, rows // self.rows))

    @property
    def scratch(self) -> int:
        """Elements of the input rows that a thread copies together."""
        rows = self.g.rows if self.band == self.counts["h"] else self.g.reach(0, self.band * self.rows)
        return rows * self.g.row_width * self.g.in_cells

    @property
    def copies(self) -> bool:
        """Whether input rows are copied into a scratch, with a border or in another type."""
        return self.g.bordered or self.machine.input_dtype != "uint8"

    @property
    def blocks_at_once(self) -> int:
        """Blocks that are unpacked together: those of a tile, or all where tiles change their channels innermost."""
        return max(part.blocks for part in self.parts) if self.by_channels else self.all_blocks

    @property
    def unpacked(self) -> int:
        """Bytes of unpacked weights that a thread holds."""
        return self.block_bytes * self.blocks_at_once if self.machine.unpacks else 0

    @property
    def merged(self) -> bool:
        """Whether the taps of a kernel row lie behind one another, so that one loop goes over all of them."""
        return self.g.dilation[1] == 1 and self.window.cells == self.g.in_cells

    @property
    def column_tiles(self) -> list[tuple[int, int]]:
        """(columns, how many) of a row's tiles: of two widths where that saves an overlap.

        Phases differ in their columns, and threads share equal tiles: there the last one overlaps.
        """
        if self.g.phases is not None or (self.threads > 1 and self.split == "w"):
            return [(self.columns, self.counts["w"])]
        return even_blocks(self.g.out_width, self.columns)

    def positions(self, columns: int) -> list[tuple[int, int]]:
        """Rows and columns of a tile of so many columns."""
        return [(r, c) for r in range(self.rows) for c in range(columns)]

    def offsets(self, columns: int) -> tuple[int, ...]:
        """How many input cells further than the first position of such a tile each position reads."""
        (down, right), cells = self.g.stride, self.g.in_cells
        return tuple((r * down * self.g.row_width + c * right) * cells for r, c in self.positions(columns))

    def vectors(self, part: ChannelTiles) -> list[LaneVector]:
        """The accumulators of one position of a tile."""
        lanes = self.machine.lanes
        vectors = [LaneVector(offset, lanes) for offset in range(0, part.blocks * BLOCK, lanes)]
        if part.half:
            vectors[-1] = LaneVector(vectors[-1].offset, lanes // 2)
        return vectors

    @property
    def parameters(self) -> Parameters:
        """What the kernel takes."""
        return convolution_parameters(self.request, self.weight, self.g.phase_count)

    @property
    def work(self) -> Work:
        g, machine, parameters = self.g, self.machine, self.parameters
        computed = sum(size * count for size, count in self.column_tiles)
        tiling = Tiling(
            spots=self.counts["n"] * self.counts["h"] * self.counts["w"] * g.phase_count,
            positions=self.rows * computed / self.counts["w"],
            parts=[(part.count, len(self.vectors(part))) for part in self.parts],
            steps=self.steps * tiles(machine.terms, _LANE_TERMS),
            by_positions=not self.by_channels,
            phases=g.phase_count,
        )
        x_bytes = array_bytes(parameters.activations[:1])
        read_bytes = self.block_bytes * self.all_blocks * g.phase_count  # of weights, unpacked where they are
        unpacked_bytes = read_bytes * (g.batch if self.by_channels or g.phases else 1) if machine.unpacks else 0
        outputs = g.batch * math.prod(g.extents)
        return convolution_work(
            parameters,
            tiling,
            (
                tiling.weight_passes(read_bytes),
                tiling.input_passes(x_bytes, self.window.cells / g.in_cells if self.workload.groups > 1 else 1.0),
            ),
            macs=outputs * self.all_blocks * BLOCK * self.steps * machine.terms,
            rows=g.batch * g.extents[0],
            width=g.extents[1],
            staged_bytes=(x_bytes * np.dtype(machine.input_dtype).itemsize if self.copies else 0) + unpacked_bytes,
        )
