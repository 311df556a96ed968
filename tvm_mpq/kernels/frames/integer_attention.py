"""The frame of attention on bytes: integer products around a softmax in float32, as `numerics.attention` defines it.

The loops are those of attention on floats. Operands become words less their zero points as they are packed: keys to
panels of [pair of features][key][2], values to panels of [pair of keys][feature][2], queries a tile at a time. One step
of either product then multiplies a pair that is the same in all lanes by a vector of pairs. Weights take the place of a
tile's scores, a word each.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Function,
    Index,
    Parameter,
    Register,
    Value,
    accumulators,
    alloc,
    clear,
    constant,
    even_blocks,
    fill_overlapping,
    fma,
    function,
    let,
    loop,
    maximum,
    minimum,
    overlap,
    ramp,
    select,
    shuffle,
    span,
    tiles,
)
from tvm_mpq.kernels.emit.lanes import across, transposed
from tvm_mpq.kernels.emit.quantize import ByteRange, whole
from tvm_mpq.kernels.frames.attention import HeadLoops, StridedOperand
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.attention import VECTORS, ByteAttention, attention_of
from tvm_mpq.kernels.work import Passes, Work, array_bytes
from tvm_mpq.numerics.attention import FARTHEST, POWER
from tvm_mpq.schema import FLOAT_BITS, padded_channels


class PairMachine(ABC):
    """What multiplies words. lanes: sums of 32 bits in a vector."""

    lanes: int

    @abstractmethod
    def add_products(self, acc: Value, left: Value, right: Value) -> Value:
        """acc int32[lanes] + left[2 i] * right[2 i] + left[2 i + 1] * right[2 i + 1], both int16[2 * lanes]."""


class IntegerAttentionFrame:
    """One attention under the knobs {"rows"}: queries of a register tile."""

    def __init__(self, request: Request, knobs: Knobs, machine: PairMachine) -> None:
        self.request, self.w, self.machine = request, attention_of(request), machine
        self.tiling = ByteAttention.of(request, int(knobs["rows"]), machine.lanes)

    @property
    def parameters(self) -> Parameters:
        """The tensors that q, k and v lie in; zero points and the output's range, factors; the result."""
        w = self.w
        shapes = ((*shape[:-1], padded_channels(shape[-1])) for shape in w.sources)
        inputs = tuple(Parameter(f"x{i}", shape, "uint8") for i, shape in enumerate(shapes))
        dtype = "float32" if self.request.out_bits == FLOAT_BITS else "uint8"
        out = Parameter("out", (w.batch, w.queries, self.tiling.stored), dtype)
        return Parameters(inputs, (Parameter("q", (8,), "int32"), Parameter("f", (4,), "float32")), out)

    @property
    def work(self) -> Work:
        """As of attention on floats, with two products in one; packed operands are words."""
        w, t, heads = self.w, self.tiling, self.w.batch * self.w.heads
        keys, key_pairs = t.padded // t.lanes, t.padded // 2
        steps = t.pairs * keys + key_pairs * t.columns
        broadcasts = t.rows * (t.pairs * tiles(keys, VECTORS) + key_pairs * tiles(t.columns, VECTORS))
        packed_bytes = 2 * (t.key_size + t.value_size)
        return Work(
            products=heads * t.tiles * t.rows * steps,
            loads=heads * t.tiles * (broadcasts + steps),
            stores=heads * t.tiles * t.rows * (2 * keys + 2 * t.columns),
            tiles=heads * t.tiles,
            staged_bytes=heads * (packed_bytes + 4 * t.tiles * t.rows * t.pairs),
            in_bytes=heads * (w.queries * w.features + w.keys * (w.features + w.value_features)),
            residual_bytes=0,
            out_bytes=array_bytes([self.parameters.output]),
            weight_bytes=array_bytes(self.parameters.constants),
            macs=heads * t.tiles * t.rows * 2 * t.lanes * steps,
            steps=t.pairs + key_pairs,
            rows=heads * w.queries,
            width=w.keys,
            passes=(Passes(heads * packed_bytes, t.tiles, packed_bytes),),
        )

    def build(self) -> PrimFunc:
        """The attention's function."""
        with function(self.parameters.all()) as f:
            _Writer(self, f).write()
        return f.func


class _Writer(HeadLoops):
    """Writes the loops of one kernel into an open function."""

    def __init__(self, frame: IntegerAttentionFrame, f: Function) -> None:
        super().__init__(frame.request, frame.tiling.tiles)
        self.t, self.machine = frame.tiling, frame.machine
        buffers = [f.flat(f"x{i}") for i in range(len(self.w.sources))]
        self.q, self.k, self.v = (StridedOperand.of(buffers, place) for place in (self.t.q, self.t.k, self.t.v))
        self.out, q, factors = f.flat("out"), f.flat("q"), f.flat("f")
        self.zero_q, self.zero_k, self.zero_v = (let(q[i].cast("int16"), "zero") for i in range(3))
        self.to_bytes = ByteRange(q[3], q[4], q[5]) if self.out.dtype == "uint8" else None
        self.score_factor, self.value_factor = let(factors[0], "halvings"), let(factors[1], "value")
        held = 1 if self.threads == 1 else self.w.batch * self.w.heads
        self.keys = alloc(held * self.t.key_size, "int16")
        self.values = alloc(held * self.t.value_size, "int16")

    def _words(self, operand: StridedOperand, zero: Value, row: Index, feature: Index, lanes: int) -> Value:
        """Neighbouring features less their zero point, int16[lanes]."""
        at = operand.index(self.b, self.h, row, feature)
        return let(operand.buffer.load(at, lanes).cast("int16") - zero, "words")

    def pack(self, held: Index) -> None:
        """Panels of `lanes` keys and of `lanes` value features; keys that do not exist are copies of the last one."""
        w, t, lanes = self.w, self.t, self.t.lanes
        blocks = w.features // (2 * lanes) if self.k.strides[3] == 1 else 0
        with loop(t.padded // lanes) as jp:
            panel = let(held * t.key_size + jp * (2 * t.pairs * lanes), "panel")
            keys = [let(minimum(jp * lanes + i, w.keys - 1), "key") for i in range(lanes)]
            if blocks:
                with loop(blocks) as block:
                    rows = [self._words(self.k, self.zero_k, key, block * (2 * lanes), 2 * lanes) for key in keys]
                    columns = transposed([let(row.reinterpret("int32", lanes)) for row in rows])
                    for i, column in enumerate(columns):
                        at = panel + (block * lanes + i) * (2 * lanes)
                        self.keys.store(at, column.reinterpret("int16", 2 * lanes))
            with loop(2 * lanes * blocks, w.features) as d:
                for i, key in enumerate(keys):
                    at = panel + d // 2 * (2 * lanes) + d % 2 + 2 * i
                    self.keys[at] = self._words(self.k, self.zero_k, key, d, 1)
            if w.features % 2:
                for i in range(lanes):
                    self.keys[panel + (2 * (t.pairs - 1) * lanes + 1 + 2 * i)] = 0
        with loop(t.columns) as cv:
            c = let(overlap(cv, lanes, w.value_features), "c")
            panel = let(held * t.value_size + cv * (t.padded * lanes), "panel")
            with loop(t.padded // 2) as j:
                rows = [self._words(self.v, self.zero_v, minimum(2 * j + i, w.keys - 1), c, lanes) for i in range(2)]
                order = [n for i in range(lanes) for n in (i, lanes + i)]
                self.values.store(panel + j * (2 * lanes), shuffle(rows, order))

    def queries(self, first: Index, count: Index, held: Index) -> None:
        w, t, lanes = self.w, self.t, self.t.lanes
        self.words = alloc(t.rows * 2 * t.pairs, "int16")
        self.scores = alloc(t.rows * t.padded, "int32")
        self.weights = alloc(t.rows * t.padded, "int16")
        self.sums = alloc(t.rows * w.value_features, "int32")
        self.share = alloc(t.rows, "float32")
        self.tile = accumulators(t.rows, [lanes] * VECTORS, "int32")
        self.best, self.total = Register(lanes, "int32"), Register(lanes, "int32")
        with loop(count) as tile:
            self.i0 = let(minimum((first + tile) * t.rows, w.queries - t.rows), "i0")
            self._widen()
            self._scores(held)
            with loop(t.rows) as r:
                self._weigh(r)
            self._values(held)
            self._finish()

    def _widen(self) -> None:
        """The tile's queries as words, a zero behind an odd number of them."""
        w, size = self.w, 2 * self.t.pairs
        with loop(self.t.rows) as r:
            if self.q.strides[3] == 1:
                for start, width in span(w.features, 2 * self.t.lanes):
                    self.words.store(r * size + start, self._words(self.q, self.zero_q, self.i0 + r, start, width))
            else:
                with loop(w.features) as d:
                    self.words[r * size + d] = self._words(self.q, self.zero_q, self.i0 + r, d, 1)
            if w.features % 2:
                self.words[r * size + w.features] = 0

    def _scores(self, held: Index) -> None:
        t, lanes, done = self.t, self.t.lanes, 0
        for size, count in even_blocks(t.padded // lanes, VECTORS):
            with loop(count) as jb:
                j0 = let(jb * (size * lanes) + done * lanes, "j0")
                start = let(held * t.key_size + j0 * (2 * t.pairs), "keys")

                def key(n: int, k: Value, start: Value = start) -> Value:
                    return self.keys.load(start + k * (2 * lanes) + n * (2 * t.pairs * lanes), 2 * lanes)

                tile = [row[:size] for row in self.tile]
                self._product(tile, self.words, 2 * t.pairs, t.pairs, key)
                for r, row in enumerate(tile):
                    for n, acc in enumerate(row):
                        self.scores.store(j0 + (r * t.padded + n * lanes), acc.value)
            done += size * count

    def _weigh(self, r: Value) -> None:
        """Row r of scores becomes weights; share[r] is what a sum of weighted values is multiplied by."""
        t, lanes, scores = self.t, self.t.lanes, self.scores
        row, valid = let(r * t.padded, "row"), self.w.keys % lanes
        self.best.value = scores.load(row, lanes)
        with loop(t.padded // lanes) as v:
            self.best.value = maximum(self.best.value, scores.load(row + v * lanes, lanes))
        largest = let(across(self.best.value, maximum), "largest")
        self.total.value = constant(0, "int32", lanes)
        with loop(self.w.keys // lanes) as v:
            self._weigh_vector(row + v * lanes, largest, lanes)
        if valid:
            self._weigh_vector(row + (t.padded - lanes), largest, valid)
        self.share[r] = self.value_factor / across(self.total.value, operator.add).cast("float32")

    def _weigh_vector(self, place: Value, largest: Value, valid: int) -> None:
        """The first `valid` lanes get a weight, the others none."""
        lanes = self.t.lanes
        below = (largest - self.scores.load(place, lanes)).cast("float32")
        u = let(minimum(below * self.score_factor, FARTHEST), "u")
        n, whole_bits = whole(u)
        r = let(u - n, "r")
        power = constant(POWER[-1], "float32", lanes)
        for c in reversed(POWER[:-1]):
            power = fma(power, r, constant(c, "float32", lanes))
        halved = ((127 - whole_bits) << 23).reinterpret("float32", lanes)  # 2^-n; its product with power is exact
        _, bits = whole(let(power * halved, "weight"))
        weight = let(bits & 255, "weight")
        if valid < lanes:
            weight = let(select(ramp(0, lanes) < valid, weight, constant(0, "int32", lanes)), "weight")
        self.total.value = self.total.value + weight
        self.weights.store(place, weight.cast("int16"))

    def _values(self, held: Index) -> None:
        w, t, lanes, done = self.w, self.t, self.t.lanes, 0
        for size, count in even_blocks(t.columns, VECTORS):
            with loop(count) as cb:
                numbers = [let(cb * size + (done + n), "number") for n in range(size)]
                start = let(held * t.value_size + (cb * size + done) * (t.padded * lanes), "values")

                def value(n: int, k: Value, start: Value = start) -> Value:
                    return self.values.load(start + k * (2 * lanes) + n * (t.padded * lanes), 2 * lanes)

                tile = [row[:size] for row in self.tile]
                self._product(tile, self.weights, t.padded, tiles(w.keys, 2), value)
                for r, row in enumerate(tile):
                    for acc, number in zip(row, numbers, strict=True):
                        column = overlap(number, lanes, w.value_features)
                        self.sums.store(column + r * w.value_features, acc.value)
            done += size * count

    def _finish(self) -> None:
        """Sums to results. A loop of its own, so that the loops above keep their registers."""
        w, t = self.w, self.t
        start = let((self.b * w.queries + self.i0) * t.stored + self.h * w.value_features, "start")
        with loop(t.rows) as i:
            for c, width in span(w.value_features, t.lanes):
                y = self.sums.load(i * w.value_features + c, width).cast("float32") * self.share[i]
                result = y if self.to_bytes is None else self.to_bytes.quantize(let(y, "y"))
                self.out.store(start + i * t.stored + c, result)
            channels = w.heads * w.value_features
            if self.to_bytes is not None and t.stored > channels:
                padding = (self.b * w.queries + self.i0 + i) * t.stored + channels
                fill_overlapping(self.out, padding, self.to_bytes.zero_point, t.stored - channels)

    def _product(
        self,
        tile: list[list[Register]],
        left: Buffer,
        width: int,
        steps: int,
        right: Callable[[int, Value], Value],
    ) -> None:
        """tile[r][n] = sum over k < steps of pair k in row r of `left` (of `width` words) times right(n, k)."""
        lanes = self.t.lanes
        clear(tile)
        with loop(steps) as k:
            columns = [let(right(n, k), "right") for n in range(len(tile[0]))]
            for r, row in enumerate(tile):
                pair = left.load(2 * k + r * width, 2).reinterpret("int32", 1)
                x = let(pair.broadcast(lanes).reinterpret("int16", 2 * lanes), "left")
                for acc, column in zip(row, columns, strict=True):
                    acc.value = self.machine.add_products(acc.value, x, column)
