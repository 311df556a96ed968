"""The frame of dense and grouped float convolutions: broadcast inputs times vectors of output channels.

Loops: tasks (batch x blocks of positions x chunks of channel tiles) / groups / channel tiles / tiles of positions /
reduction. An input that needs a border or another type is first copied, block by block, into a scratch (`staging`), so
that the inner loops know neither. Tails of rows and of channels overlap their neighbours: the same values are written
twice. Tiles of columns have two widths instead: on a map of 7 columns, an overlap of one is an eighth of the work.

Tiles, reduction and steps are those of `convolution.py`, but not the loops around them: inputs and weights are four
times as large here, so that a task takes a block of positions whose inputs stay in the second-level cache, stages them
there, and finds the weights of each channel tile in one stream. Output
channels are not stored in blocks of 16, and groups follow one another, where integer kernels have a window of channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Function,
    Index,
    Parameter,
    Pointer,
    Register,
    Task,
    Value,
    accumulators,
    activate,
    bind,
    equal,
    even_blocks,
    function,
    let,
    loop,
    minimum,
    overlap,
    parallel,
    tiles,
    when,
)
from tvm_mpq.kernels.frames.float_blocks import column_block, row_block
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.kernels.frames.phase import Phase, each_phase
from tvm_mpq.kernels.frames.reduction import Reduction
from tvm_mpq.kernels.frames.staging import Block, Staging
from tvm_mpq.kernels.frames.step_tile import PREFETCHED_BYTES
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import ChannelTiles, Geometry, Segments, conv_of, tile_channels
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work

TASKS_PER_THREAD = 2
"""More than one, so that other threads can take over from one that is late."""


class FloatConvolution:
    """Plans one convolution's loops from tile knobs {"lanes", "rows", "cols", "blocks"}; `writer` writes them."""

    def __init__(self, request: Request, knobs: Knobs, product: FloatProduct) -> None:
        self.workload, self.product = conv_of(request), product
        self.g, self.segments = Geometry.of_floats(self.workload), Segments.of(self.workload)
        self.lanes = knobs["lanes"]
        self.rows, self.columns = min(knobs["rows"], self.g.least_height), min(knobs["cols"], self.g.least_width)
        self.vectors = tiles(self.segments.out_group, self.lanes)
        self.parts = tile_channels(self.vectors, knobs["blocks"], half=False)
        self.steps = tiles(self.segments.length, product.width)
        self.taps = self.segments.count * self.steps * product.width
        self.parallel = request.threads > 1
        self._split(request.threads * TASKS_PER_THREAD if self.parallel else 1)
        self.staging = Staging(self.g, self.block_rows, self.block_columns, product)

    def _split(self, wanted: int) -> None:
        """Tasks: by positions, and by channels where the weights outweigh the map or the map is too small."""
        g = self.g
        by_columns = g.out_height == 1 and not g.bordered
        count = tiles(g.out_width, self.columns) if by_columns else tiles(g.out_height, self.rows)
        self.chunks = 1
        if wanted > 1 and (count < wanted or self.taps * g.out_cells > 4 * g.in_height * g.in_width):
            self.chunks = min(self.parts[0].count, wanted)
        position_tasks = tiles(wanted, g.batch * self.chunks)
        self.block_rows, self.block_columns = 1, g.out_width
        if by_columns:
            self.block_columns = column_block(g, self.columns, position_tasks)
        else:
            self.block_rows = row_block(g, self.rows, position_tasks)
        self.position_blocks = tiles(g.out_width, self.block_columns) * tiles(g.out_height, self.block_rows)

    @property
    def column_tiles(self) -> list[tuple[int, int]]:
        """(columns, how many) of a block's tiles: of two widths where that saves an overlap.

        Phases differ in their columns, so that their last tiles overlap anyway.
        """
        if self.g.phases is not None:
            return [(self.columns, tiles(self.block_columns, self.columns))]
        return even_blocks(self.block_columns, self.columns)

    @property
    def columns_count(self) -> int:
        """Tiles of one row."""
        return sum(count for _, count in self.column_tiles)

    @property
    def position_tiles(self) -> int:
        """Of one block."""
        return tiles(self.block_rows, self.rows) * self.columns_count

    @property
    def prefetches(self) -> bool:
        """Whether weights are too many to stay near, and a tile of them is used more than once."""
        large = self.workload.groups == 1 and self.taps * self.g.out_cells * 4 >= PREFETCHED_BYTES
        return large and self.position_tiles > 1

    @property
    def parameters(self) -> Parameters:
        """What the kernel takes: weight and bias as `pack_direct` lays them out."""
        w = self.workload
        x = Parameter("x", (w.batch, w.in_height, w.in_width, w.in_channels), "float32")
        out_shape = (w.batch, w.out_height, w.out_width, w.out_channels)
        channels = w.groups * self.vectors * self.lanes
        weights = self.g.phase_count * channels * self.taps
        constants = Parameter("weight", (weights,), self.product.dtype), Parameter("bias", (channels,), "float32")
        activations = (x, Parameter("r", out_shape, "float32")) if w.residual else (x,)
        return Parameters(activations, constants, Parameter("out", out_shape, "float32"))

    @property
    def writer(self) -> Callable[[FloatConvolution, Function], Writer]:
        """What writes its loops."""
        return Writer

    @property
    def work(self) -> Work:
        g, parameters, groups = self.g, self.parameters, self.workload.groups
        tiling = Tiling(
            spots=g.batch * self.position_blocks * self.position_tiles * g.phase_count,
            positions=self.rows * sum(size * count for size, count in self.column_tiles) / self.columns_count,
            parts=[(groups * part.count, part.blocks) for part in self.parts],
            steps=self.segments.count * self.steps,
            by_positions=False,
            phases=g.phase_count,
        )
        x_bytes = array_bytes(parameters.activations[:1])
        weight_bytes = array_bytes(parameters.constants[:1])
        outputs = g.batch * math.prod(g.extents)
        return convolution_work(
            parameters,
            tiling,
            (tiling.weight_passes(weight_bytes), tiling.input_passes(x_bytes, 1 / groups)),
            macs=outputs * groups * self.vectors * self.lanes * self.taps,
            rows=g.batch * g.extents[0],
            width=g.extents[1],
            staged_bytes=x_bytes * self.chunks if self.staging.copies else 0,
        )

    def build(self) -> PrimFunc:
        """The kernel."""
        with function(self.parameters.all(), llvm=self.product.llvm) as f:
            self.writer(self, f).write()
        return f.func


class Writer:
    """Writes the loops of one frame into an open function. tile: number of the tile of positions within its block."""

    chunk: Value
    block: Block
    inputs: Buffer
    phase: Phase
    group: Value
    tile: Value

    def __init__(self, frame: FloatConvolution, f: Function) -> None:
        self.frame, self.g, self.product = frame, frame.g, frame.product
        self.x, self.weight, self.bias, self.out = (f.flat(name) for name in ("x", "weight", "bias", "out"))
        self.residual = f.flat("r") if frame.workload.residual else None

    def write(self) -> None:
        frame, g = self.frame, self.g
        count = g.batch * frame.position_blocks * frame.chunks
        with parallel(count) if frame.parallel else loop(count) as task:
            self.chunk = let(task % frame.chunks, "chunk")
            number = let(task // frame.chunks % frame.position_blocks, "block")
            image = let(task // (frame.chunks * frame.position_blocks), "image")
            oh = let(minimum(number * frame.block_rows, g.out_height - frame.block_rows), "oh_block")
            whole = frame.block_columns == g.out_width
            ow = 0 if whole else minimum(number * frame.block_columns, g.out_width - frame.block_columns)
            self.block = Block(image, oh, bind(ow, "ow_block"))
            self.inputs = frame.staging.stage(self.x, self.block)
            with each_phase(g) as self.phase, loop(frame.workload.groups) as self.group:
                for part in frame.parts:
                    self._channels(part)

    def _channels(self, part: ChannelTiles) -> None:
        """A task's tiles of channels: its share of the equal ones; the narrower one belongs to the last chunk."""
        chunks = self.frame.chunks
        with ExitStack() as stack:
            share: tuple[Index, Index] = (0, part.count)
            if part is self.frame.parts[0]:
                share = Task(chunks, self.chunk if chunks > 1 else None).share(part.count)
            elif chunks > 1:
                stack.enter_context(when(equal(self.chunk, chunks - 1)))
            tile = stack.enter_context(loop(*share))
            self._positions(part.first + tile * part.blocks, part.blocks)

    def _positions(self, first: Value, blocks: int) -> None:
        """All positions of the block for `blocks` vectors of output channels, of a group's vectors from `first` on."""
        frame, lanes, out_group = self.frame, self.frame.lanes, self.frame.segments.out_group
        starts = [overlap(first + n, lanes, out_group) for n in range(blocks)]
        self.channels = [let(self.group * out_group + start, "channel") for start in starts]
        self.vector = let(self.group * frame.vectors + first, "vector")
        start, done = 0, 0
        for size, count in frame.column_tiles:
            covered = min(size * count, frame.block_columns - start)
            accs = accumulators(frame.rows * size, [lanes] * blocks, "float32")
            with loop(tiles(frame.block_rows, frame.rows)) as row, loop(count) as column:
                self.tile = row * frame.columns_count + (column + done)
                oh = self.block.oh + overlap(row, frame.rows, frame.block_rows)
                ow = self.block.ow + start + overlap(column, size, covered)
                if self.g.phases is not None:  # some have fewer outputs than the longest
                    oh, ow = minimum(oh, self.phase.height - frame.rows), minimum(ow, self.phase.width - size)
                oh, ow = let(oh, "oh"), let(ow, "ow")
                self.begin(accs)
                self._reduce(oh, ow, accs, size)
                self._finish(oh, ow, accs, size)
            start, done = start + covered, done + count

    def of_channels(self, values: Buffer, n: int) -> Value:
        """Those of the n-th vector of output channels, where `values` holds one for each channel of all vectors."""
        return values.load((self.vector + n) * self.frame.lanes, self.frame.lanes)

    def begin(self, accs: list[list[Register]]) -> None:
        """What sums start from."""
        for n in range(len(accs[0])):
            for acc in accs:
                acc[n].value = self.of_channels(self.bias, n)

    def finished(self, acc: Register, n: int) -> Value:
        """A sum of the n-th vector of channels, bias included."""
        return acc.value

    def _reduce(self, oh: Value, ow: Value, accs: list[list[Register]], columns: int) -> None:
        frame, staging, lanes = self.frame, self.frame.staging, self.frame.lanes
        x = let(staging.index(self.block, self.phase, oh, ow) + self.group * frame.segments.in_group, "x_tile")
        w = (self.phase.number * (frame.workload.groups * frame.vectors) + self.vector) * (lanes * frame.taps)
        shifts = [staging.shift(r, c) for r in range(frame.rows) for c in range(columns)]
        self.add_up(x, w, shifts, accs)

    def reduction(self, blocks: int) -> Reduction:
        """Of a tile of so many vectors of output channels."""
        frame, width = self.frame, self.product.width
        size = blocks * frame.lanes * width
        return Reduction.of(self.g, frame.segments.merged, frame.steps, frame.staging.row_size, width, size)

    def add_up(self, x: Value, w: Value, shifts: list[int], accs: list[list[Register]]) -> None:
        """Add to the sums of a tile, whose positions lie `shifts` behind `x`, all products with weights from `w` on."""
        with self.reduction(len(accs[0])).loops(x, w) as place:
            if self.frame.prefetches:
                self._prefetch(w, place.step, len(accs[0]))
            self.step(place.x, place.weights, shifts, accs)

    def step(self, x: Index, w: Index, shifts: list[int], accs: list[list[Register]]) -> None:
        """One step of the reduction."""
        inputs = [Pointer(self.inputs, x + shift) for shift in shifts]
        apart = self.frame.lanes * self.product.width
        self.product.step(inputs, [Pointer(self.weight, w + n * apart) for n in range(len(accs[0]))], accs)

    def _prefetch(self, weights: Value, step: Index, blocks: int) -> None:
        """Ask for the weights of the next tile of channels, a little in every step of this one's tiles of positions.

        They come from the third-level cache or memory, which the processor's own prefetching hides badly where a map is
        small. Behind the last tile the address is out of bounds, which a prefetch may be.
        """
        frame = self.frame
        size, steps = blocks * frame.lanes * frame.taps, frame.segments.count * frame.steps
        stride = tiles(size, steps * frame.position_tiles)
        self.weight.prefetch(weights + (self.tile * steps + step) * stride + size)

    def _finish(self, oh: Value, ow: Value, accs: list[list[Register]], columns: int) -> None:
        frame, g = self.frame, self.g
        y = let(self.phase.position(self.block.image, oh, ow) * g.out_cells, "y")
        shifts = [self.phase.shift(r, c) * g.out_cells for r in range(frame.rows) for c in range(columns)]
        for shift, row in zip(shifts, accs, strict=True):
            for n, (acc, channel) in enumerate(zip(row, self.channels, strict=False)):
                start, value = y + shift + channel, self.finished(acc, n)
                if self.residual is not None:
                    value = value + self.residual.load(start, frame.lanes)
                self.out.store(start, activate(value, frame.workload.activation))
