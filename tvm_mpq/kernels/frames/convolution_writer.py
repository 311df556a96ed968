"""The code of a dense integer convolution: the loops that `ConvolutionFrame` plans, and the tiles inside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Function,
    Index,
    Pointer,
    Value,
    alloc,
    bind,
    function,
    let,
    loop,
    minimum,
    overlap,
    split,
)
from tvm_mpq.kernels.emit.quads import Quad, quads_apart
from tvm_mpq.kernels.frames.border import fill_border, rows_read
from tvm_mpq.kernels.frames.convolution import ConvolutionFrame
from tvm_mpq.kernels.frames.machine import Dot, Tile, TileMachine
from tvm_mpq.kernels.frames.phase import Phase, each_phase
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer
from tvm_mpq.kernels.frames.step_tile import StepTile
from tvm_mpq.kernels.shapes.geometry import (
    BLOCK,
    ChannelTiles,
)

_FINISHED = 4  # sums that are packed to bytes together


def build_convolution(frame: ConvolutionFrame) -> PrimFunc:
    """The kernel that `frame` plans."""
    with function(frame.parameters.all(), llvm=frame.machine.llvm) as f:
        ConvolutionWriter(frame, f).write()
    return f.func


class ConvolutionWriter:
    """Writes the loops of one frame into an open function.

    n, oh, ow, block: image, first output row, column and block of channels of the tile that is being written; h, w: the
    numbers of its row and column of tiles; columns: how many it has.
    """

    n: Value
    h: Value
    w: Value
    oh: Value
    ow: Value
    block: Value
    columns: int
    base: Index  # where row 0 of this thread's input would be in `x`
    rows: tuple[Index, Index]  # of tiles: those that are being written
    phase: Phase
    waiting: Buffer  # finished sums that wait for others
    unpacked: Index  # where this thread's unpacked weights begin

    def __init__(self, frame: ConvolutionFrame, f: Function) -> None:
        self.frame, self.machine, self.g = frame, frame.machine, frame.g
        self.source = f.flat("x")
        slack = frame.g.dilation[1] * frame.g.in_cells  # pairs of columns read one past the last
        size = frame.threads * frame.scratch + (slack if self.machine.input_dtype == "int16" else 0)
        self.x = alloc(size, frame.machine.input_dtype) if frame.copies else self.source
        self.packed = f.flat("weight")
        self.weights = alloc(frame.threads * frame.unpacked, "int8") if self.machine.unpacks else self.packed
        self.machine.prepare()
        self.q, self.bias, self.multiplier = f.flat("Q"), f.flat("bias"), f.flat("multiplier")
        self.requantizer = Requantizer(f, frame.request, self.machine.lanes)
        if isinstance(self.machine, TileMachine) and self.machine.quads_apart:
            self.waiting = alloc(frame.threads * self.g.out_width * self.machine.lanes, "int32")

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
            self.base = bind(self.task.offset(frame.scratch), "base") if frame.copies else 0
            self.rows = self._share("h")
            if frame.band < frame.counts["h"]:
                self._bands()
            else:
                self._whole()

    def _whole(self) -> None:
        """All rows of an image, or of this thread's share."""
        if self.frame.copies:
            self._copy()
        with each_phase(self.g) as self.phase:
            if self.machine.unpacks and not self.frame.by_channels and self.g.phases is not None:
                self._unpack(0, self.frame.all_blocks)
            self._tiles()

    def _copy(self) -> None:
        """The inputs of `rows`, with their border."""
        part = self.frame.rows, self.rows, self.n
        fill_border(self.g, *part, self.source, self.x, self.base, self.q[0])

    def _bands(self) -> None:
        """A few rows of tiles after the other, each copied when its outputs are computed."""
        frame, g = self.frame, self.g
        (low, high), start = self.rows, self.base
        count = (high - low + (frame.band - 1)) // frame.band
        with loop(count) as band:
            first = let(low + band * frame.band, "band")
            self.rows = first, let(minimum(first + frame.band, high), "band_end")
            top, _ = rows_read(g, frame.rows, self.rows)
            self.base = bind(start - top * (g.row_width * g.in_cells), "base")
            self._copy()
            self._tiles()

    def _tiles(self) -> None:
        machine = self.machine
        if isinstance(machine, TileMachine) and machine.quads_apart:
            if self.frame.by_channels:
                self._channels(lambda _: self._rows(lambda: self._halves(machine)))
            else:
                self._rows(lambda: self._channels(lambda _: self._halves(machine)))
        elif self.frame.by_channels:
            self._channels(lambda part: self._rows(lambda: self._columns(lambda: self._tile(part))))
        else:
            self._rows(lambda: self._columns(lambda: self._channels(self._tile)))

    def _rows(self, body: Callable[[], None]) -> None:
        with loop(*self.rows) as h:
            self.h = h
            self.oh = let(overlap(self.h, self.frame.rows, self.phase.height), "oh")
            body()

    def _columns(self, body: Callable[[], None]) -> None:
        tiles_of, start, done = self.frame.column_tiles, 0, 0
        if len(tiles_of) == 1:
            ((self.columns, _),) = tiles_of
            with loop(*self._share("w")) as w:
                self.w = w
                self.ow = let(overlap(self.w, self.columns, self.phase.width), "ow")
                body()
            return
        for self.columns, count in tiles_of:
            with loop(count) as w:
                self.w = w + done
                self.ow = let(w * self.columns + start, "ow")
                body()
            start, done = start + self.columns * count, done + count

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
            self.requantizer.finish(StepTile(self, machine, part).cells())
        elif isinstance(machine, TileMachine):
            self._owned_tile(machine)

    def _owned_tile(self, machine: TileMachine) -> None:
        """A block of channels, one of the machine's vectors after another."""
        frame, lanes = self.frame, machine.lanes
        vectors = 1 if frame.all_blocks == 1 and self.requantizer.stored <= lanes else BLOCK // lanes
        with loop(vectors) as vector:
            channel = let(self.block * BLOCK + vector * lanes, "channel")
            biases = self._biases(channel)
            sums = list(machine.sums(self._owned(machine, vector, biases)))
            bias = None if machine.biased else let(biases.load(lanes), "bias")
            multiplier = let(self.multiplier.load(channel, lanes), "multiplier")
            if bias is not None:
                sums = [let(total + bias, "sum") for total in sums]
            places = zip(sums, self.places(), strict=True)
            self.requantizer.finish([Cell(total, multiplier, place, channel) for total, place in places])

    def _halves(self, machine: TileMachine) -> None:
        """A row of a block whose vectors have their quads apart.

        The row's sums of the first vector wait in a scratch for those of the second, so that packs join them. In one
        tile the compiler would load the inputs of both at once, and save what does not fit the registers.
        """
        for half in range(2):
            self._columns(partial(self._half, machine, half))

    def _half(self, machine: TileMachine, half: int) -> None:
        """A tile of one of the two vectors."""
        channel, requantizer, n = let(self.block * BLOCK, "channel"), self.requantizer, machine.lanes
        multipliers = [let(self.multiplier.load(channel + i, n), "natural") for i in (0, n)]
        multiplier = let(quads_apart(multipliers)[half], "multiplier")
        start = let(self.task.offset(self.frame.g.out_width * n) + self.ow * n, "waiting")
        cells, ints = list[Cell](), list[Value]()
        sums = machine.sums(self._owned(machine, half, self._biases(channel)))
        for i, (total, place) in enumerate(zip(sums, self.places(), strict=True)):
            ends = [tuple(Quad(place, channel, 4 * h + offset) for offset in (0, 8)) for h in range(2)]
            both_cells = [Cell(total, multiplier, place, channel, quads=quads) for quads in ends]
            value = requantizer.to_ints(both_cells[half]) if requantizer.packs else total
            if half == 0:
                self.waiting.store(start + i * n, value)
                continue
            both = [let(self.waiting.load(start + i * n, n), "waited"), value]
            if requantizer.packs:
                ints, cells = [*ints, *both], [*cells, *both_cells]
                if len(ints) == _FINISHED:
                    requantizer.finish_ints(ints, cells)
                    ints, cells = [], []
            else:
                parts = zip(quads_apart(both), multipliers, strict=True)
                requantizer.finish([Cell(v, m, place, channel, offset=n * o) for o, (v, m) in enumerate(parts)])
        if ints:
            requantizer.finish_ints(ints, cells)

    def _biases(self, channel: Value) -> Pointer:
        return Pointer(self.bias, self.phase.number * (self.frame.all_blocks * BLOCK) + channel)

    def _owned(self, machine: TileMachine, vector: Index, biases: Pointer) -> Tile:
        """The tile of one vector of channels."""
        frame = self.frame
        inputs = Pointer(self.x, self.first_cell() + (vector * machine.lanes if machine.own_channels else 0))
        first = self.stored_block() * frame.block_bytes + vector * (frame.block_bytes * machine.lanes // BLOCK)
        return Tile(self.g, inputs, frame.offsets(self.columns), Pointer(self.weights, first), biases, vector)

    def first_cell(self) -> Value:
        """The first input cell that the tile's first position reads."""
        g = self.g
        image = self.n * g.in_height if not self.frame.copies else 0
        row, column = self.oh * g.stride[0] + self.phase.row, self.ow * g.stride[1] + self.phase.column
        first = (image + row) * g.row_width + column
        return self.base + first * g.in_cells + self.frame.window.first_cell(self.block)

    def places(self) -> list[Value]:
        """Which output positions the tile's are."""
        return [self.phase.position(self.n, self.oh + r, self.ow + c) for r, c in self.frame.positions(self.columns)]
