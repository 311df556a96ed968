"""The code of a 3x3 convolution by Winograd's transform: the loops that `WinogradFrame` plans."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Function,
    Index,
    Pointer,
    Task,
    Value,
    accumulators,
    alloc,
    bind,
    chunks,
    clear,
    even_blocks,
    function,
    let,
    loop,
    overlap,
    split,
    tiles,
)
from tvm_mpq.kernels.frames.border import at_most, fill_border
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer
from tvm_mpq.kernels.frames.winograd import WinogradFrame
from tvm_mpq.kernels.shapes.geometry import BLOCK

_CHANNELS = 16  # transformed at once


def build_winograd(frame: WinogradFrame) -> PrimFunc:
    """The kernel that `frame` plans."""
    with function(frame.parameters.all()) as f:
        _Writer(frame, f).write()
    return f.func


class _Writer:
    """Writes the loops of one frame into an open function.

    n: image.
    """

    n: Value

    def __init__(self, frame: WinogradFrame, f: Function) -> None:
        self.frame, self.g, self.t = frame, frame.g, frame.transform
        self.source = f.flat("x")
        shared = 1 if frame.whole else frame.threads
        self.x = alloc(frame.threads * frame.scratch, "uint8") if self.g.bordered else self.source
        self.inputs = alloc(shared * frame.products * frame.input_stride, "int16")
        self.sums = alloc(frame.threads * frame.products * frame.sum_stride, "int32")
        points, size = self.t.points, self.t.outputs_at_once
        self.turned = alloc(frame.threads * points**2 * _CHANNELS, "int16")
        self.turned_sums = alloc(frame.threads * points * size * BLOCK, "int32")
        self.weights = f.flat("weight")
        self.q, self.bias, self.multiplier = f.flat("Q"), f.flat("bias"), f.flat("multiplier")
        self.requantizer = Requantizer(f, frame.request, frame.machine.lanes)

    def write(self) -> None:
        frame = self.frame
        if frame.whole:
            with loop(self.g.batch) as self.n:
                with split(frame.threads) as task:
                    rows = task.share(frame.down)
                    self._fill(task, rows)
                    self._transform(task, rows, 0, 0)
                with split(frame.threads) as task:
                    self.requantizer.locals()
                    self._products(task, task.share(frame.all_blocks), 0, 0)
            return
        with split(frame.threads) as task:
            self.requantizer.locals()
            low, high = task.share(frame.bands)
            own = bind(task.offset(frame.products * frame.input_stride), "own")
            with loop(self.g.batch) as self.n:
                self._fill(task, (at_most(low * frame.band, frame.down - frame.band), high * frame.band))
                with loop(low, high) as band:
                    top = let(overlap(band, frame.band, frame.down), "top")
                    self._transform(task, (top, top + frame.band), top, own)
                    self._products(task, (0, frame.all_blocks), top, own)

    def _fill(self, task: Task, rows: tuple[Index, Index]) -> None:
        """The bordered inputs of some rows of tiles."""
        if self.g.bordered:
            base, size = task.offset(self.frame.scratch), self.t.outputs_at_once
            fill_border(self.g, size, rows, self.n, self.source, self.x, base, self.q[0])

    def _transform(self, task: Task, rows: tuple[Index, Index], top: Index, own: Index) -> None:
        """The inputs of some rows of tiles; those of row `top` come first in the scratch, at `own`."""
        frame, g, points, size = self.frame, self.g, self.t.points, self.t.outputs_at_once
        image = task.offset(frame.scratch) if g.bordered else self.n * (g.in_height * g.row_width * g.in_cells)
        turned = bind(task.offset(points**2 * _CHANNELS), "turned")
        with loop(*rows) as th, loop(frame.across) as tw:
            oh, ow = overlap(th, size, g.out_height), overlap(tw, size, g.out_width)
            first = let(image + (oh * g.row_width + ow) * g.in_cells, "first")
            slot = let(own + ((th - top) * frame.across + tw) * g.in_cells, "slot")
            for start, lanes, times in chunks(g.in_cells, (16, 8, 4)):
                with loop(times) as c:
                    at = let(c * lanes + start, "channel")
                    with loop(points) as y:
                        row = let(first + y * (g.row_width * g.in_cells) + at, "row")
                        loads = [self.x.load(row + i * g.in_cells, lanes).cast("int16") for i in range(points)]
                        for i, value in enumerate(_inputs([let(load, "d") for load in loads])):
                            self.turned.store(turned + (y * points + i) * _CHANNELS, value)
                    with loop(points) as x:
                        column = let(turned + x * _CHANNELS, "column")
                        loads = [self.turned.load(column + i * (points * _CHANNELS), lanes) for i in range(points)]
                        for i, value in enumerate(_inputs([let(load, "d") for load in loads])):
                            self.inputs.store(slot + at + (x + i * points) * frame.input_stride, value)

    def _products(self, task: Task, share: tuple[Index, Index], top: Index, own: Index) -> None:
        """All outputs of a band, some blocks of channels."""
        frame = self.frame
        sums = bind(task.offset(frame.products * frame.sum_stride), "sums")
        with loop(*share) as block:
            with loop(frame.products) as p:
                done = number = 0
                for columns, count in even_blocks(frame.tiles, frame.columns):
                    with loop(count) as k:
                        tile = let(k * columns + done, "tile")
                        self._sum(columns, tile, k + number, p, block, own, sums)
                    done, number = done + columns * count, number + count
            with loop(frame.band) as th, loop(frame.across) as tw:
                self._outputs(task, top, th, tw, block, sums)

    def _sum(self, columns: int, tile: Value, number: Value, p: Value, block: Value, own: Index, sums: Index) -> None:
        """One product of `columns` tiles, all input channels; it is the `number`-th such sum of the product."""
        frame, g, machine = self.frame, self.g, self.frame.machine
        vectors, steps = frame.vectors, g.in_cells // machine.channels
        accs = accumulators(columns, [machine.lanes] * vectors, "int32")
        clear(accs)
        v = let(own + p * frame.input_stride + tile * g.in_cells, "v")
        size = steps * machine.step_bytes
        w = let((block * frame.products + p) * (vectors * size), "w")
        with loop(steps) as k:
            inputs = [Pointer(self.inputs, v + k * machine.channels + i * g.in_cells) for i in range(columns)]
            weights = [Pointer(self.weights, w + k * machine.step_bytes + i * size) for i in range(vectors)]
            if frame.prefetches:  # the weights of the next product, a little in every step of this one
                apart = tiles(vectors * size, steps * tiles(frame.tiles, frame.columns))
                self.weights.prefetch(w + vectors * size + (number * steps + k) * apart)
            machine.step(inputs, weights, accs)
        to = let(sums + p * frame.sum_stride + tile * (vectors * machine.lanes), "to")
        for i, row in enumerate(accs):
            for j, acc in enumerate(row):
                self.sums.store(to + (i * vectors + j) * machine.lanes, acc.value)

    def _outputs(self, task: Task, top: Index, th: Value, tw: Value, block: Value, sums: Index) -> None:
        """The outputs of one tile, from its sums."""
        frame, g, points, size = self.frame, self.g, self.t.points, self.t.outputs_at_once
        lanes, vectors = frame.machine.lanes, frame.vectors
        width = vectors * lanes
        first = let(sums + (th * frame.across + tw) * width, "first")
        turned = bind(task.offset(points * size * width), "turned")
        with loop(points) as x:
            for v in range(vectors):
                start = first + x * frame.sum_stride + v * lanes
                loads = [self.sums.load(start + i * (points * frame.sum_stride), lanes) for i in range(points)]
                for i, value in enumerate(_outputs([let(load, "m") for load in loads])):
                    self.turned_sums.store(turned + (i * points + x) * width + v * lanes, value)
        channel = let(block * BLOCK, "channel")
        biases = [let(self.bias.load(channel + v * lanes, lanes), "bias") for v in range(vectors)]
        multipliers = [let(self.multiplier.load(channel + v * lanes, lanes), "multiplier") for v in range(vectors)]
        oh, ow = overlap(top + th, size, g.out_height), overlap(tw, size, g.out_width)
        with loop(size) as y:
            position = let((self.n * g.out_height + oh + y) * g.out_width + ow, "position")
            rows = []
            for v in range(vectors):
                start = turned + y * (points * width) + v * lanes
                loads = [self.turned_sums.load(start + i * width, lanes) for i in range(points)]
                rows.append([self._divided(z) + biases[v] for z in _outputs([let(load, "m") for load in loads])])
            cells = []
            for column in range(size):
                for v in range(vectors):
                    if frame.all_blocks == 1 and v * lanes >= self.requantizer.stored:
                        continue
                    total = let(rows[v][column], "total")
                    cells.append(Cell(total, multipliers[v], position + column, channel, offset=v * lanes))
            self.requantizer.finish(cells)

    def _divided(self, z: Value) -> Value:
        """z / scale^2, where the quotient is whole and has no more than 32 - shift bits."""
        odd = z.reinterpret("uint32", z.lanes) * self.t.inverse
        return odd.reinterpret("int32", z.lanes) >> self.t.shift


def _inputs(d: Sequence[Value]) -> list[Value]:
    """B^T d."""
    if len(d) == 4:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
    d0, d1, d2, d3, d4, d5 = d
    e, f = let(d4 - d2, "e"), let(d3 - d1, "f")
    twice_e, twice_f = let(e + e, "e2"), let(f + f, "f2")
    g, h, k = let(d0 - d2 + e), let(d5 - d3 - f), let(e - f)
    low, high = let(d1 + d2), let(d2 - d3)
    return [
        g + g - (twice_f + f),
        low + low + low + f - twice_e,
        k + k + (high + high + high),
        twice_e + f,
        twice_f - e,
        h + h - (twice_e + e),
    ]


def _outputs(m: Sequence[Value]) -> list[Value]:
    """A^T m, modulo 2^32."""
    if len(m) == 4:
        return [m[0] + m[1] + m[2], m[1] - m[2] + m[3]]
    m0, m1, m2, m3, m4, m5 = m
    s, d = let(m1 + m2, "s"), let(m1 - m2, "d")
    twice_3, twice_4 = let(m3 + m3), let(m4 + m4)
    four_3, four_4 = let(twice_3 + twice_3), let(twice_4 + twice_4)
    return [
        m0 + s + m3 + (four_4 + four_4),
        d + twice_3 - four_4,
        s + four_3 + twice_4,
        d + (four_3 + four_3) - m4 + m5,
    ]
