"""Depthwise convolution on AVX2 by products of bytes: vpmaddubsw on two taps, added up in 16 bits (`tap_sums`).

Input rows are copied with their border as bytes. Two rows, or two columns of the last row, are interleaved by unpacks
within lanes of 128 bits, 32 channels at a time; what comes out serves all outputs of a tile that meet it. The sums of
16 bits are interleaved the same way and widened by vpmaddwd, which also weighs the planes of the weights, and the packs
of the requantizer bring the channels back to their order: nothing crosses lanes.
"""

from __future__ import annotations

from functools import reduce
from operator import add

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Function,
    Index,
    Parameter,
    Register,
    Value,
    alloc,
    bind,
    constant,
    even_blocks,
    even_tile,
    function,
    let,
    loop,
    minimum,
    shuffle,
    split,
    split_axis,
    tiles,
)
from tvm_mpq.kernels.emit.lanes import unpack
from tvm_mpq.kernels.emit.quads import Quad
from tvm_mpq.kernels.frames.border import fill_border, rows_read
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer, convolution_parameters
from tvm_mpq.kernels.machines.avx2 import multiply_bytes, multiply_words
from tvm_mpq.kernels.packing.tap_sums import GROUP, QUADS, group_starts, tap_sums
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, Geometry, blocks, conv_of, useful_threads
from tvm_mpq.kernels.work import Passes, Work, array_bytes

_BAND_BYTES = 1 << 16
"""Of input rows that are copied together."""
_LANES, _VECTOR = 8, 32


class ByteTapsFrame:
    """Plans the loops from the knob {"columns"}: output columns of a tile, at most."""

    def __init__(self, request: Request, knobs: Knobs) -> None:
        self.request, self.w = request, conv_of(request)
        way = tap_sums(request)
        assert way is not None
        self.way, self.g = way, Geometry.of(self.w, request.out_bits)
        self.threads = useful_threads(self.w, request.threads)
        self.columns = min(knobs["columns"], self.g.out_width)
        self.groups = len(group_starts(self.w.out_channels))
        row_bytes = self.g.row_width * self.g.in_cells
        held = 1 + (_BAND_BYTES // row_bytes - self.g.reach(0, 1)) // self.g.stride[0]
        self.band = even_tile(self.g.out_height, max(1, held))
        """Output rows whose inputs are copied together."""
        past = self.g.dilation[1] * self.g.in_cells  # a lone last tap is read with the column behind it
        self.scratch = self.g.reach(0, self.band) * row_bytes + past
        self.counts = {"n": self.g.batch, "h": self.g.out_height}
        self.split = split_axis(self.counts, self.threads)

    @property
    def group_bytes(self) -> int:
        """Of the weights of a group of channels."""
        return len(self.way.sums) * self.way.planes * 2 * _VECTOR

    @property
    def parameters(self) -> Parameters:
        """What the kernel takes."""
        shape = (self.groups, len(self.way.sums), self.way.planes, 2, BLOCK, 2)
        return convolution_parameters(self.request, Parameter("weight", shape, "int8"))

    @property
    def work(self) -> Work:
        """Vectors of 16 channels are multiplied, those of 8 are stored."""
        w, g, way, parameters = self.w, self.g, self.way, self.parameters
        outputs = g.batch * g.out_height * g.out_width * self.groups
        x_bytes, weight_bytes = array_bytes(parameters.activations[:1]), array_bytes(parameters.constants[:1])
        row_bytes, rows = g.row_width * g.in_cells, g.batch * g.out_height
        residual_bytes = array_bytes(parameters.activations[1:])
        return Work(
            products=outputs * 2 * way.planes * len(way.sums),
            loads=outputs * (2 * way.planes * len(way.sums) + w.kernel[0] * w.stride[1]),
            stores=outputs * 4 * (1.5 if w.residual else 1),
            tiles=rows * self.groups * tiles(g.out_width, self.columns),
            staged_bytes=g.batch * tiles(g.out_height, self.band) * self.scratch,
            in_bytes=x_bytes,
            residual_bytes=residual_bytes,
            out_bytes=array_bytes([parameters.output]),
            weight_bytes=weight_bytes,
            macs=g.batch * g.out_height * g.out_width * blocks(w.out_channels) * BLOCK * w.kernel[0] * w.kernel[1],
            steps=2 * way.planes * len(way.sums),
            rows=rows,
            width=g.out_width,
            passes=(
                Passes(weight_bytes, rows, weight_bytes + g.reach(0, 1) * row_bytes),
                Passes(x_bytes, 1.0, g.reach(0, self.band) * row_bytes),
            ),
        )

    def build(self) -> PrimFunc:
        """The kernel."""
        with function(self.parameters.all()) as f:
            _Writer(self, f).write()
        return f.func


class _Writer:
    """Writes the loops of one frame. n, oh, group, channel, ow: where the tile that is being written stands."""

    n: Value
    oh: Value
    group: Value
    channel: Value
    ow: Value
    sums: dict[tuple[int, int, int], Register]  # by output column, half and number
    base: Index  # where row 0 of the image would be in the scratch

    def __init__(self, frame: ByteTapsFrame, f: Function) -> None:
        self.frame, self.w, self.g, self.way = frame, frame.w, frame.g, frame.way
        self.x, self.weights = f.flat("x"), f.flat("weight")
        self.bias, self.multiplier = f.flat("bias"), f.flat("multiplier")
        self.rows = alloc(frame.threads * frame.scratch, "uint8")
        self.z = f.flat("Q")[0]
        self.requantizer = Requantizer(f, frame.request, _LANES)

    def write(self) -> None:
        frame, row_bytes = self.frame, self.g.row_width * self.g.in_cells
        with split(frame.threads) as task:
            self.requantizer.locals()
            start = bind(task.offset(frame.scratch), "start")
            images = task.share(self.g.batch) if frame.split == "n" else (0, self.g.batch)
            low, high = task.share(self.g.out_height) if frame.split == "h" else (0, self.g.out_height)
            with loop(*images) as self.n, loop((high - low + (frame.band - 1)) // frame.band) as band:
                first = let(low + band * frame.band, "first")
                last = let(minimum(first + frame.band, high), "last")
                top, _ = rows_read(self.g, 1, (first, last))
                self.base = bind(start - top * row_bytes, "base")
                fill_border(self.g, 1, (first, last), self.n, self.x, self.rows, self.base, self.z)
                with loop(first, last) as self.oh, loop(frame.groups) as self.group:
                    self._row()

    def _row(self) -> None:
        """All columns of a group of channels."""
        stored = blocks(self.w.out_channels) * BLOCK
        self.channel = let(minimum(self.group * GROUP, stored - GROUP), "channel")
        start = 0
        for columns, count in even_blocks(self.g.out_width, self.frame.columns):
            with loop(count) as t:
                self.ow = let(t * columns + start, "ow")
                self._tile(columns)
            start += columns * count

    def _quads(self, source: Buffer, number: int) -> Value:
        """Of the biases or multipliers, those of one of the four vectors of a group."""
        return let(shuffle([source.load(self.channel + i, 4) for i in QUADS[number]], range(_LANES)), "quads")

    def _tile(self, columns: int) -> None:
        """Some neighbouring outputs, by input columns: what is interleaved serves all outputs that meet it."""
        g, way, (kh, kw) = self.g, self.way, self.w.kernel
        row, step = g.dilation[0] * g.row_width * g.in_cells, g.dilation[1] * g.in_cells
        position = self.oh * g.stride[0] * g.row_width + self.ow * g.stride[1]
        x = let(self.base + position * g.in_cells + self.channel, "x")
        w = let(self.group * self.frame.group_bytes, "w")
        self.biases, self.multipliers = ([self._quads(b, v) for v in range(4)] for b in (self.bias, self.multiplier))
        self.sums = {}
        met: dict[int, list[tuple[int, int]]] = {}  # (output, kernel column) by where their inputs begin
        for c in range(columns):
            for k in range(kw):
                met.setdefault(c * g.stride[1] * g.in_cells + k * step, []).append((c, k))
        missing = [kw] * columns
        for at in sorted(met):
            for r in sorted({first[0] for first, _ in way.pairs}):
                users = [(c, n) for c, k in met[at] for n, (first, _) in enumerate(way.pairs) if first == (r, k)]
                if not users:
                    continue
                apart = row if r + 1 < kh else step
                two = [let(self.rows.load(x + (at + r * row + d), _VECTOR), "x") for d in (0, apart)]
                for half in (0, 1):
                    taps = let(unpack(two[0], two[1], half), "taps")
                    for c, n in users:
                        for plane in range(way.planes):
                            place = ((n * way.planes + plane) * 2 + half) * _VECTOR
                            product = multiply_bytes(taps, self.weights.load(w + place, _VECTOR))
                            self._add((c, half, plane * way.count + way.sums[n]), product)
            for c, _ in met[at]:
                missing[c] -= 1
                if not missing[c]:
                    self._finish(c)

    def _add(self, key: tuple[int, int, int], product: Value) -> None:
        """Add to a sum of an output's half, which its first product begins."""
        if key in self.sums:
            self.sums[key].value = self.sums[key].value + product
        else:
            self.sums[key] = Register(16, "int16")
            self.sums[key].value = product

    def _finish(self, column: int) -> None:
        """Widen the sums of an output, and store its channels."""
        position = let((self.n * self.g.out_height + self.oh) * self.g.out_width + self.ow + column, "position")
        cells = []
        for v, quads in enumerate(QUADS):
            total = let(self.biases[v] + self._widened(column, *divmod(v, 2)), "total")
            places = tuple(Quad(position, self.channel, i) for i in quads)
            cells.append(Cell(total, self.multipliers[v], position, self.channel, quads=places))
        self.requantizer.finish(cells)

    def _widened(self, column: int, half: int, part: int) -> Value:
        """Four channels of each lane of 128 bits, all sums of an output together."""
        factors, count = self.way.factors, self.way.count
        order = [i + plane * count for i in range(count) for plane in range(self.way.planes)]
        products = []
        for i in range(0, len(order), 2):
            first, second = order[i], order[min(i + 1, len(order) - 1)]
            worth = factors[first] + (factors[second] << 16 if i + 1 < len(order) else 0)
            both = unpack(self.sums[column, half, first].value, self.sums[column, half, second].value, part)
            products.append(multiply_words(both, constant(worth, "int32", 8).reinterpret("int16", 16)))
        return reduce(add, products)
