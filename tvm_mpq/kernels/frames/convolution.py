"""The frame of every dense integer convolution: tiles of positions x channels, borders, threads, requantization.

Input rows that need padding are first copied into a scratch whose border holds the zero point (`border.py`). A tile is
`rows` x `columns` output positions x `blocks` * 16 channels, all accumulators in registers; where a tile does not
divide the map, the last one is moved back and computes some positions twice. The channels that the tiles leave over are
a narrower tile of their own; half a block of them takes half a vector where the machine has one (`Dot.halves`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_mpq.kernels.emit import (
    Parameter,
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
        self.scratch = self.g.rows * self.g.row_width * self.g.in_cells
        order = "gnhw" if self.all_blocks * self.block_bytes > self.x_size else "nhwg"
        self.split = split_axis({axis: self.counts[axis] for axis in order}, self.threads)
        if self.threads > 1 and self.split == "g":  # equal tiles, which any number of threads can share
            self.parts = [ChannelTiles(0, self.counts["g"], self.blocks, False, True)]
        else:
            half = has_half(request, isinstance(machine, Dot) and machine.halves)
            self.parts = tile_channels(self.all_blocks, self.blocks, half)

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
    def positions(self) -> list[tuple[int, int]]:
        """Rows and columns of a tile."""
        return [(r, c) for r in range(self.rows) for c in range(self.columns)]

    @property
    def offsets(self) -> tuple[int, ...]:
        """How many input cells further than the first position of a tile each position reads."""
        (down, right), cells = self.g.stride, self.g.in_cells
        return tuple((r * down * self.g.row_width + c * right) * cells for r, c in self.positions)

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
        tiling = Tiling(
            spots=self.counts["n"] * self.counts["h"] * self.counts["w"] * g.phase_count,
            positions=self.rows * self.columns,
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
            staged_bytes=(x_bytes if g.bordered else 0) + unpacked_bytes,
        )
