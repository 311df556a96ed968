"""The frame of every dense integer convolution: tiles of positions x channels, borders, threads, requantization.

Input rows that need padding are first copied into a scratch whose border holds the zero point (`border.py`). A tile is
`rows` x `columns` output positions x `blocks` * 16 channels, all accumulators in registers; where a tile does not
divide the map, the last one is moved back and computes some positions twice. The channels that the tiles leave over are
a narrower tile of their own; half a block of them takes half a vector where the machine has one (`Dot.halves`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Array,
    Function,
    Index,
    Pointer,
    Value,
    accumulators,
    alloc,
    bind,
    constant,
    function,
    let,
    loop,
    minimum,
    overlap,
    shuffle,
    split,
    split_axis,
    tiles,
)
from tvm_mpq.kernels.emit.quads import Quad
from tvm_mpq.kernels.frames.border import fill_border
from tvm_mpq.kernels.frames.machine import ConvolutionMachine, Dot, Tile, TileMachine
from tvm_mpq.kernels.frames.phase import Phase, each_phase
from tvm_mpq.kernels.frames.reduction import Reduction
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer, convolution_parameters
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import (
    BLOCK,
    ChannelTiles,
    ChannelWindow,
    Geometry,
    blocks,
    has_half,
    tile_channels,
    useful_threads,
)
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work
from tvm_mpq.schema import Conv2dWorkload

PREFETCHED_BYTES = 131_072
"""Weights of a convolution from which they are prefetched; smaller ones gained nothing."""

_LANE_TERMS = 4
"""Products of bytes that one vector multiply-add adds to a 32 bit lane, as work is counted."""


@dataclass(frozen=True)
class LaneVector:
    """One accumulator of each position of a tile: `lanes` channels, `offset` channels from the tile's first."""

    offset: int
    lanes: int


class ConvolutionFrame:
    """Plans one convolution's loops from tile knobs {"rows", "columns", "blocks", "order"}; `_Writer` writes them."""

    def __init__(self, request: Request, knobs: Knobs, machine: ConvolutionMachine) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.machine, self.request, self.workload = machine, request, request.workload
        self.threads = useful_threads(request.workload, request.threads)
        self.g = Geometry.of(request.workload, request.out_bits)
        self.rows = min(knobs["rows"], self.g.least_height)
        self.columns = min(knobs["columns"], self.g.least_width)
        self.window = ChannelWindow.of(request.workload, machine.channels)
        self.all_blocks = blocks(request.workload.out_channels)
        self.blocks = min(knobs["blocks"], self.all_blocks) if request.workload.groups == 1 else 1
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
        self.weight = Array("weight", shape, machine.weight_dtype)
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

    def build(self) -> PrimFunc:
        with function(self.parameters.all()) as f:
            _Writer(self, f).write()
        return f.func


class _Writer:
    """Writes the loops of one frame into an open function.

    n, oh, ow, block: image, first output row, column and block of channels of the tile that is being written; h, w: the
    numbers of its row and column of tiles.
    """

    n: Value
    h: Value
    w: Value
    oh: Value
    ow: Value
    block: Value
    base: Index  # where this thread's input rows begin in `x`
    phase: Phase
    unpacked: Index  # where this thread's unpacked weights begin

    def __init__(self, frame: ConvolutionFrame, f: Function) -> None:
        self.frame, self.machine, self.g = frame, frame.machine, frame.g
        self.source = f.flat("x")
        self.x = alloc(frame.threads * frame.scratch, "uint8") if self.g.bordered else self.source
        self.packed = f.flat("weight")
        self.weights = alloc(frame.threads * frame.unpacked, "int8") if self.machine.unpacks else self.packed
        self.machine.prepare()
        self.q, self.bias, self.multiplier = f.flat("Q"), f.flat("bias"), f.flat("multiplier")
        self.requantizer = Requantizer(f, frame.request, self.machine.lanes)

    def write(self) -> None:
        with split(self.frame.threads) as task:
            self.task = task
            self._task()

    def _share(self, axis: str) -> tuple[Index, Index]:
        """The tiles of one axis that a task does."""
        count = self.frame.counts[axis]
        return self.task.share(count) if axis == self.frame.split else (0, count)

    def _task(self) -> None:
        frame, g = self.frame, self.g
        self.phase = Phase.only(g)
        self.requantizer.locals()
        if self.machine.unpacks:
            self.unpacked = bind(self.task.offset(frame.unpacked), "unpacked")
            if not frame.by_channels and g.phases is None:
                self._unpack(0, frame.all_blocks)
        with loop(*self._share("n")) as n:
            self.n = n
            self.base = bind(self.task.offset(frame.scratch), "base") if g.bordered else 0
            if g.bordered:
                z = self.q[0].cast("uint8")
                fill_border(g, frame.rows, self._share("h"), self.n, self.source, self.x, self.base, z)
            with each_phase(g) as self.phase:
                if self.machine.unpacks and not frame.by_channels and g.phases is not None:
                    self._unpack(0, frame.all_blocks)
                self._tiles()

    def _tiles(self) -> None:
        if self.frame.by_channels:
            self._channels(lambda part: self._rows(lambda: self._columns(lambda: self._tile(part))))
        else:
            self._rows(lambda: self._columns(lambda: self._channels(self._tile)))

    def _rows(self, body: Callable[[], None]) -> None:
        with loop(*self._share("h")) as h:
            self.h = h
            self.oh = let(overlap(self.h, self.frame.rows, self.phase.height), "oh")
            body()

    def _columns(self, body: Callable[[], None]) -> None:
        with loop(*self._share("w")) as w:
            self.w = w
            self.ow = let(overlap(self.w, self.frame.columns, self.phase.width), "ow")
            body()

    def _channels(self, body: Callable[[ChannelTiles], None]) -> None:
        frame = self.frame
        for part in frame.parts:
            with loop(*(self._share("g") if part.overlaps else (0, part.count))) as i:
                last = frame.all_blocks - part.blocks
                block = minimum(i * part.blocks, last) if part.overlaps else part.first + i * part.blocks
                self.block = let(block, "block")
                if self.machine.unpacks and frame.by_channels:
                    self._unpack(self.block, part.blocks)
                body(part)

    def _unpack(self, block: Index, count: int) -> None:
        block = self.phase.number * self.frame.all_blocks + block
        self.machine.unpack(self.packed, block, count, self.weights, self.unpacked, self.frame.block_bytes)

    def stored_block(self) -> Index:
        """The tile's first block among the weights and biases of all phases."""
        return self.phase.number * self.frame.all_blocks + self.block

    def _tile(self, part: ChannelTiles) -> None:
        machine = self.machine
        if isinstance(machine, Dot):
            self.requantizer.finish(_StepTile(self, machine, part).cells())
        elif isinstance(machine, TileMachine):
            self._owned_tile(machine)

    def _owned_tile(self, machine: TileMachine) -> None:
        """A block of channels, one of the machine's vectors after another."""
        frame, lanes = self.frame, machine.lanes
        vectors = 1 if frame.all_blocks == 1 and self.requantizer.stored <= lanes else BLOCK // lanes
        with loop(vectors) as vector:
            channel = let(self.block * BLOCK + vector * lanes, "channel")
            inputs = Pointer(self.x, self.first_cell())
            first = self.stored_block() * frame.block_bytes + vector * (frame.block_bytes * lanes // BLOCK)
            weights = Pointer(self.weights, first)
            biases = Pointer(self.bias, self.phase.number * (frame.all_blocks * BLOCK) + channel)
            sums = machine.sums(Tile(self.g, inputs, frame.offsets, weights, biases))
            bias = None if machine.biased else let(biases.load(lanes), "bias")
            multiplier = let(self.multiplier.load(channel, lanes), "multiplier")
            if bias is not None:
                sums = [let(total + bias, "sum") for total in sums]
            places = zip(sums, self.places(), strict=True)
            self.requantizer.finish([Cell(total, multiplier, place, channel) for total, place in places])

    def first_cell(self) -> Value:
        """The first input cell that the tile's first position reads."""
        g = self.g
        image = self.n * g.in_height if not g.bordered else 0
        row, column = self.oh * g.stride[0] + self.phase.row, self.ow * g.stride[1] + self.phase.column
        first = (image + row) * g.row_width + column
        return self.base + first * g.in_cells + self.frame.window.first_cell(self.block)

    def places(self) -> list[Value]:
        """Which output positions the tile's are."""
        return [self.phase.position(self.n, self.oh + r, self.ow + c) for r, c in self.frame.positions]


class _StepTile:
    """One tile of a machine that goes by steps: its accumulators, and the loops around `Dot.step`."""

    def __init__(self, writer: _Writer, dot: Dot, part: ChannelTiles) -> None:
        self.writer, self.frame, self.g, self.dot, self.part = writer, writer.frame, writer.g, dot, part
        self.vectors = self.frame.vectors(part)
        self.accs = accumulators(len(self.frame.positions), [vector.lanes for vector in self.vectors], "int32")
        self.channel = let(writer.block * BLOCK, "channel")

    def cells(self) -> list[Cell]:
        """All sums, as the requantizer takes them; halves are joined in pairs of positions."""
        dot, accs = self.dot, self.accs
        for v, vector in enumerate(self.vectors):
            start = constant(0, "int32", vector.lanes) if dot.shift else self._bias(vector)
            for row in accs:
                row[v].value = start
        self._reduce()
        multipliers, biases = [], []
        for vector in self.vectors:
            m = self.writer.multiplier.load(self.channel + vector.offset, vector.lanes)
            multipliers.append(let(shuffle([m, m], range(dot.lanes)) if vector.lanes < dot.lanes else m, "multiplier"))
            if dot.shift:
                biases.append(self._bias(vector))
        places = self.writer.places()
        cells, waiting = [], 0
        for p, position in enumerate(places):
            for v, vector in enumerate(self.vectors):
                if vector.lanes < dot.lanes:
                    if p % 2 == 0 and p + 1 < len(places):
                        waiting = p
                        continue
                    first = waiting if p % 2 else p
                    acc = shuffle([accs[first][v].value, accs[p][v].value], range(dot.lanes))
                    quads = tuple(Quad(places[i], self.channel, vector.offset + o) for i in (first, p) for o in (0, 4))
                    cells.append(Cell(acc, multipliers[v], position, self.channel, offset=vector.offset, quads=quads))
                    continue
                if self.frame.all_blocks == 1 and vector.offset >= self.writer.requantizer.stored:
                    continue  # half a block past the last channel
                acc = accs[p][v].value
                if dot.shift:
                    acc = (acc >> dot.shift) + biases[v]
                reaches_end = vector.offset // BLOCK == self.part.blocks - 1
                cells.append(Cell(acc, multipliers[v], position, self.channel, reaches_end, vector.offset))
        return cells

    def _bias(self, vector: LaneVector) -> Value:
        writer = self.writer  # what zero points add depends on a phase's taps
        first = writer.phase.number * (self.frame.all_blocks * BLOCK)
        return let(writer.bias.load(first + (self.channel + vector.offset), vector.lanes), "bias")

    def _reduce(self) -> None:
        writer, frame, g, dot = self.writer, self.frame, self.g, self.dot
        width, merged = g.row_width, frame.merged
        length = (g.kernel[1] if merged else 1) * frame.window.cells // dot.channels  # steps of the innermost loop
        x = let(writer.first_cell(), "x_tile")
        if dot.unpacks:
            w = writer.unpacked if frame.by_channels else writer.unpacked + writer.block * frame.block_bytes
        else:
            w = writer.stored_block() * frame.block_bytes
        reduction = Reduction.of(g, merged, length, width * g.in_cells, dot.channels, dot.step_bytes)
        with reduction.loops(x, w) as place:
            inputs = [Pointer(writer.x, place.x + offset) for offset in frame.offsets]
            size = frame.block_bytes // (BLOCK // dot.lanes)
            starts = [place.weights + vector.offset // dot.lanes * size for vector in self.vectors]
            large = frame.all_blocks * frame.block_bytes >= PREFETCHED_BYTES
            if dot.prefetches and large and merged and frame.by_channels:
                self._prefetch(place.step)
            weights = [Pointer(writer.weights, start) for start in starts]
            dot.step(inputs, weights, self.accs, self.vectors[-1].lanes < dot.lanes)

    def _prefetch(self, step: Index) -> None:
        """Ask for the weights of the next tile of channels, a little in every step of this one's tiles of positions.

        In a network weights come from the third-level cache or memory, which the processor's own prefetching hides
        badly where a block of weights serves few positions. Past the last tile the address is out of bounds, which a
        prefetch may be.
        """
        writer, frame, part, columns = self.writer, self.frame, self.part, self.frame.counts["w"]
        stride = -(-part.blocks * frame.block_bytes // (frame.steps * frame.counts["h"] * columns))
        done = ((writer.h * columns + writer.w) * frame.steps + step) * stride
        writer.weights.prefetch((writer.stored_block() + part.blocks) * frame.block_bytes + done)
