"""AVX-512 VNNI: depthwise convolution by four-way byte products over vertically interleaved rows.

For a tile of output rows, every input column of 16 channels becomes vectors of [16 channels][4 rows] in a strip that
stays in the first-level cache; border columns and rows hold the zero point there. One product then adds four rows of a
column, and the same vector serves several output rows through weights shifted by a row: the weights of (kernel column,
output row, group of 4 rows) are 64 bytes, zero where the row does not belong to the window.

Two blocks of 16 channels are interleaved together, by byte and word unpacks within each 128 bit lane. That leaves their
channels in the order `PAIR_ORDER` over two accumulators; weights, bias and multipliers are stored so, and the packs of
the requantizer bring the outputs back. An odd last block goes alone, in natural order.

In one file: strip, product and requantizer agree on one order of channels.
"""

from __future__ import annotations

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Function,
    Index,
    Parameter,
    Register,
    Value,
    alloc,
    bind,
    both,
    branch,
    constant,
    function,
    let,
    loop,
    maximum,
    minimum,
    overlap,
    select,
    shuffle,
    split,
    split_axis,
    tiles,
)
from tvm_mpq.kernels.emit.quads import Quad
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer, convolution_parameters
from tvm_mpq.kernels.machines.vnni512 import dot
from tvm_mpq.kernels.packing.depthwise import PAIR_QUADS, paired, window
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks, conv_of, useful_threads
from tvm_mpq.kernels.work import Passes, Work, array_bytes
from tvm_mpq.schema import padded_channels


class DepthwiseFrame:
    """Plans the loops from knobs {"rows", "columns"}; `writer` writes them.

    lanes: int32 lanes of an accumulator.
    """

    lanes = BLOCK

    def __init__(self, request: Request, knobs: Knobs) -> None:
        self.request, self.w = request, conv_of(request)
        w = self.w
        self.threads = useful_threads(w, request.threads)
        self.window = window(w, knobs["rows"])
        self.columns = min(knobs["columns"], w.out_width)
        self.pairs = self.window.pairs()
        all_blocks = blocks(w.out_channels)
        self.strip_width = (w.out_width - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1
        self.strip = self.strip_width * self.window.groups * 64 * min(2, all_blocks)
        self.counts = {"n": w.batch, "h": tiles(w.out_height, self.window.rows)}
        together = all_blocks // 2 if paired(request) else 0
        self.parts = [(0, together, 2), (2 * together, all_blocks - 2 * together, 1)]
        """First block, how many times, and how many blocks at a time."""
        if 0 in (together, all_blocks - 2 * together):
            self.counts["g"] = together or all_blocks  # only equal parts of the channels can be divided over threads
        self.split = split_axis(self.counts, self.threads)

    @property
    def parameters(self) -> Parameters:
        """What the kernel takes."""
        shape = (blocks(self.w.out_channels), self.w.kernel[1], len(self.pairs), BLOCK, 4)
        return convolution_parameters(self.request, Parameter("weight", shape, "int8"))

    @property
    def work(self) -> Work:
        """A product adds up four rows; each row of tiles interleaves the input rows that it needs anew."""
        w, window, parameters = self.w, self.window, self.parameters
        all_blocks, products = blocks(w.out_channels), w.kernel[1] * len(self.pairs)  # of one column of outputs
        vectors = all_blocks * BLOCK // self.lanes
        rows = self.counts["n"] * self.counts["h"]  # of tiles
        spots = rows * tiles(w.out_width, self.columns)
        read = {c * w.stride[1] + k * w.dilation[1] for c in range(self.columns) for k in range(w.kernel[1])}
        x_bytes, weight_bytes = array_bytes(parameters.activations[:1]), array_bytes(parameters.constants[:1])
        row_bytes = window.reach * x_bytes / (w.batch * w.in_height)
        positions = window.rows * self.columns
        residual_bytes = array_bytes(parameters.activations[1:])
        return Work(
            products=spots * vectors * self.columns * products,
            loads=spots * vectors * (products + len(read) * window.groups),
            stores=spots * vectors * positions * (1.5 if w.residual else 1),
            tiles=spots * sum(count for _, count, _ in self.parts),
            staged_bytes=rows * all_blocks * self.strip_width * window.groups * 64,
            in_bytes=x_bytes,
            residual_bytes=residual_bytes,
            out_bytes=array_bytes([parameters.output]),
            weight_bytes=weight_bytes,
            macs=w.batch * w.out_height * w.out_width * all_blocks * BLOCK * w.kernel[0] * w.kernel[1],
            steps=products / window.rows,
            rows=w.batch * w.out_height,
            width=w.out_width,
            passes=(
                Passes(weight_bytes, rows, weight_bytes + row_bytes),
                Passes(x_bytes, max(1.0, rows * row_bytes / x_bytes), row_bytes),
            ),
        )

    def build(self) -> PrimFunc:
        """The kernel."""
        with function(self.parameters.all()) as f:
            self.writer(f).write()
        return f.func

    def writer(self, f: Function) -> DepthwiseWriter:
        """What writes the loops."""
        return DepthwiseWriter(self, f)


class DepthwiseWriter:
    """Writes the loops of one frame. n, oh, block, channel, ow: where the tile that is being written stands."""

    n: Value
    oh: Value
    block: Value
    channel: Value
    ow: Value
    base: Index  # where this thread's strip begins
    span: int  # blocks that are interleaved together

    def __init__(self, frame: DepthwiseFrame, f: Function) -> None:
        self.frame, self.w, self.window = frame, frame.w, frame.window
        self.x, self.weights = f.flat("x"), f.flat("weight")
        self.strip = alloc(frame.threads * frame.strip, "uint8")
        self.bias, self.multiplier = f.flat("bias"), f.flat("multiplier")
        self.z = let(f.flat("Q")[0].cast("uint8"), "z")
        self.requantizer = Requantizer(f, frame.request, frame.lanes)
        self.cells = padded_channels(self.w.in_channels)

    def write(self) -> None:
        frame, w = self.frame, self.w
        with split(frame.threads) as self.task:
            self.base = bind(self.task.offset(frame.strip), "base")
            self.requantizer.locals()
            with loop(*self._share("n", w.batch)) as n, loop(*self._share("h", frame.counts["h"])) as h:
                self.n, self.oh = n, let(overlap(h, self.window.rows, w.out_height), "oh")
                for first, count, self.span in frame.parts:
                    if count:
                        self._channels(first, count)

    def _share(self, axis: str, count: int) -> tuple[Index, Index]:
        return self.task.share(count) if axis == self.frame.split else (0, count)

    def _channels(self, first: int, count: int) -> None:
        """A row of tiles for `count` groups of `span` blocks from block `first`."""
        columns = self.frame.columns
        with loop(*self._share("g", count)) as g:
            self.block = let(first + g * self.span, "block")
            self.channel = let(self.block * BLOCK, "channel")
            self._interleave()
            with loop(tiles(self.w.out_width, columns)) as t:
                self.ow = let(overlap(t, columns, self.w.out_width), "ow")
                self.tile()

    def _interleave(self) -> None:
        """Fill the strip: columns [left border | input | right border], each groups * span vectors of 64 bytes."""
        w, groups, size, width = self.w, self.window.groups, 16 * self.span, self.frame.strip_width
        reach = self.window.reach
        top, left = w.padding[0], w.padding[1]
        copied = min(w.in_width, width - left)
        column = groups * 64 * self.span
        y0 = let(self.oh * w.stride[0] - top, "y0")
        for first, count in ((0, left), (left + copied, width - left - copied)):
            if count > 0:
                with loop(count * column // 64) as i:
                    self.strip.store(self.base + first * column + i * 64, self.z.broadcast(64))
        rows = [min(j, reach - 1) for j in range(4 * groups)]
        plane = self.n * (w.in_height * w.in_width * self.cells) + self.channel
        line = w.in_width * self.cells
        with branch(both(y0 >= 0, y0 + reach <= w.in_height)) as (inside, at_the_edge):
            with inside:
                source = let(plane + y0 * line, "source")
                with loop(copied) as c:
                    loads = [self.x.load(source + j * line + c * self.cells, size) for j in rows]
                    self._column(c, loads, left)
            with at_the_edge:
                starts, kept, filled = [], [], []
                for j in range(reach):
                    exists = let(both(y0 + j >= 0, y0 + j < w.in_height), "exists")
                    row = maximum(0, minimum(y0 + j, w.in_height - 1))
                    starts.append(let(plane + row * line, "source"))
                    all_bits, none = constant(255, "uint8"), constant(0, "uint8")
                    kept.append(let(select(exists, all_bits, none).broadcast(size), "kept"))
                    filled.append(let(select(exists, none, self.z).broadcast(size), "filled"))
                with loop(copied) as c:
                    loads = [self.x.load(starts[j] + c * self.cells, size) & kept[j] | filled[j] for j in rows]
                    self._column(c, loads, left)

    def _column(self, c: Value, rows: list[Value], left: int) -> None:
        """Store one input column's vectors [channels][4 rows]."""
        groups, size = self.window.groups, 64 * self.span
        for group in range(groups):
            at = self.base + (left * groups + group) * size + c * (groups * size)
            four = rows[4 * group : 4 * group + 4]
            if self.span == 1:
                self.strip.store(at, shuffle(four, [16 * j + channel for channel in range(16) for j in range(4)]))
                continue
            r = [let(row, "row") for row in four]
            low, high = [], []
            for j in (0, 2):
                low.append(let(_unpack(r[j], r[j + 1], 1, 0), "low"))
                high.append(let(_unpack(r[j], r[j + 1], 1, 1), "high"))
            for k, pair in enumerate((low, low, high, high)):
                self.store_quads(at, k, _unpack(pair[0], pair[1], 2, k % 2))

    def store_quads(self, at: Value, k: int, quads: Value) -> None:
        """Vector k of a column and group of two blocks, uint8x32, into the strip, where they begin at `at`."""
        self.strip.store(at + 32 * k, quads)

    def users(self, column: int) -> list[tuple[int, int]]:
        """(output column of the tile, kernel column) of all that read a column of the tile's inputs."""
        w = self.w
        return [
            (c, k)
            for c in range(self.frame.columns)
            for k in range(w.kernel[1])
            if c * w.stride[1] + k * w.dilation[1] == column
        ]

    @property
    def input_columns(self) -> range:
        """Of a tile."""
        w = self.w
        return range((self.frame.columns - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1)

    def position(self, row: int, column: int) -> Value:
        """Which output position one of the tile's is."""
        return (self.n * self.w.out_height + self.oh + row) * self.w.out_width + self.ow + column

    def tile(self) -> None:
        w, frame, groups, span = self.w, self.frame, self.window.groups, self.span
        size = 64 * len(frame.pairs)
        accs = {
            (r, c, s): Register(BLOCK, "int32")
            for r in range(self.window.rows)
            for c in range(frame.columns)
            for s in range(span)
        }
        biases, multipliers = [], []
        for s in range(span):
            biases.append(let(self.bias.load(self.channel + 16 * s, BLOCK), "bias"))
            multipliers.append(let(self.multiplier.load(self.channel + 16 * s, BLOCK), "multiplier"))
        for (_, _, s), acc in accs.items():
            acc.value = biases[s]
        weights = {}
        for k in range(w.kernel[1]):
            for p in range(len(frame.pairs)):
                for s in range(span):
                    at = (self.block + s) * (w.kernel[1] * size) + (k * size + p * 64)
                    weights[k, p, s] = let(self.weights.load(at, 64), "w")
        start = let(self.base + self.ow * (w.stride[1] * groups * span * 64), "start")
        cells: list[Cell] = []
        for column in self.input_columns:
            users = self.users(column)
            for group in range(groups if users else 0):
                for s in range(span):
                    v = let(self.strip.load(start + ((column * groups + group) * span + s) * 64, 64), "v")
                    for c, k in users:
                        for p, (row, g) in enumerate(frame.pairs):
                            if g == group:
                                acc = accs[row, c, s]
                                acc.value = dot(acc.value, v, weights[k, p, s])
            for c, k in users:
                if k == w.kernel[1] - 1:  # complete: end it while the next columns' products run
                    for r in range(self.window.rows):
                        position = self.position(r, c)
                        cells += [self._cell(position, s, accs[r, c, s], multipliers[s]) for s in range(span)]
            while len(cells) >= 4:
                self.requantizer.finish(cells[:4])
                del cells[:4]
        self.requantizer.finish(cells)

    def _cell(self, position: Value, s: int, acc: Register, multiplier: Value) -> Cell:
        quads = tuple(Quad(position, self.channel, o) for o in PAIR_QUADS[s]) if self.span == 2 else ()
        return Cell(acc.value, multiplier, position, self.channel, quads=quads)


def _unpack(first: Value, second: Value, size: int, half: int) -> Value:
    """Elements of `size` bytes of two uint8x32 alternating, from the low or high half of each 128 bit lane."""
    order: list[int] = []
    for lane in range(0, 32, 16):
        for at in range(lane + 8 * half, lane + 8 * half + 8, size):
            order += [*range(at, at + size), *range(32 + at, 32 + at + size)]
    return shuffle([first, second], order)
