"""The frame of softmax(q k^T) v on floats, reading q, k and v wherever they lie.

Per head, k is first packed into panels of as many keys as a vector has lanes, so that a block of scores is a broadcast
of q times vectors of keys, and v into dense rows: both are then read from the second-level cache in order. Then, for a
few queries at a time: their scores against all keys into a buffer that stays in the first-level cache, the exponentials
and their sums in place, the product with v, and a division by the sums on the way out. Nothing of size queries x keys
is ever stored. Tails of queries and features overlap their neighbours.

In one file: packing, scores, exponentials and product share the buffers of a head.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
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
    function,
    let,
    loop,
    maximum,
    minimum,
    overlap,
    parallel,
    ramp,
    select,
    span,
    tiles,
    zeros,
)
from tvm_mpq.kernels.emit.activations import exp
from tvm_mpq.kernels.emit.lanes import across, transposed
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.attention import VECTORS, AttentionTiling, attention_of
from tvm_mpq.kernels.work import Passes, Work, array_bytes

_TASKS_PER_THREAD = 4
_PARALLEL_FROM = 500_000  # multiply-accumulates below which starting threads costs more than it saves
_MASKED = -3.0e38  # the score of a key that does not exist


@dataclass(frozen=True)
class StridedOperand:
    """A tensor [batch, head, row, feature] inside a flat buffer; strides: elements from one of each to the next."""

    buffer: Buffer
    offset: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, buffers: list[Buffer], place: tuple[int, ...]) -> StridedOperand:
        """place: number of the buffer, offset, then the strides (see `AttentionWorkload`)."""
        source, offset, *strides = place
        return cls(buffers[source], offset, tuple(strides))

    def index(self, batch: Value, head: Value, row: Index, feature: Index) -> Value:
        """The flat index of an element."""
        at = batch * self.strides[0] + head * self.strides[1] + row * self.strides[2] + feature * self.strides[3]
        return at + self.offset


class AttentionFrame:
    """One attention under the knobs {"rows"}: queries of a register tile; `_Writer` writes its loops."""

    def __init__(self, request: Request, knobs: Knobs) -> None:
        self.request, self.w = request, attention_of(request)
        self.tiling = AttentionTiling.of(request, int(knobs["rows"]))

    @property
    def parameters(self) -> Parameters:
        """The tensors that q, k and v lie in, and the dense result [batch, query, head, feature]."""
        w = self.w
        out = Parameter("out", (w.batch, w.queries, w.heads, w.value_features), "float32")
        return Parameters(tuple(Parameter(f"x{i}", shape, "float32") for i, shape in enumerate(w.sources)), (), out)

    @property
    def work(self) -> Work:
        """Keys and values of a head are packed once, and pass once a tile of queries; exponentials count as stores."""
        w, t, heads = self.w, self.tiling, self.w.batch * self.w.heads
        keys, values = t.padded // t.lanes, tiles(w.value_features, t.out_lanes)  # vectors
        tile_products = t.rows * (w.features * keys + w.keys * values)
        broadcasts = t.rows * (w.features * tiles(keys, VECTORS) + w.keys * tiles(values, VECTORS))
        item = np.dtype("float32").itemsize
        packed_bytes = (t.key_size + (t.value_size if t.copied else 0)) * item
        held_bytes = (t.key_size + t.value_size) * item
        return Work(
            products=heads * t.tiles * tile_products,
            loads=heads * t.tiles * (broadcasts + w.features * keys + w.keys * values),
            stores=heads * t.tiles * t.rows * (2 * keys + 2 * values),  # scores, exponentials; sums, results
            tiles=heads * t.tiles,
            staged_bytes=heads * packed_bytes,
            in_bytes=heads * (w.queries * w.features + w.keys * (w.features + w.value_features)) * item,
            residual_bytes=0,
            out_bytes=array_bytes([self.parameters.output]),
            weight_bytes=0,
            macs=heads * t.tiles * t.rows * (t.key_size + t.value_size),
            steps=w.features + w.keys,
            rows=heads * w.queries,
            width=w.keys,
            passes=(Passes(heads * held_bytes, t.tiles, held_bytes),),
        )

    def build(self) -> PrimFunc:
        """The attention's function."""
        with function(self.parameters.all()) as f:
            _Writer(self, f).write()
        return f.func


class HeadLoops(ABC):
    """The loops over heads and tiles of queries of one kernel, in an open function.

    b, h: batch and head that are being done.
    """

    b: Value
    h: Value

    def __init__(self, request: Request, query_tiles: int) -> None:
        self.w = w = attention_of(request)
        self.threads = request.threads if w.macs >= _PARALLEL_FROM else 1
        self.tiles = query_tiles

    @abstractmethod
    def pack(self, held: Index) -> None:
        """Keys and values of the head, to place number `held` of their scratch."""

    @abstractmethod
    def queries(self, first: Index, count: Index, held: Index) -> None:
        """`count` tiles of queries from tile `first` on."""

    def write(self) -> None:
        heads = self.w.batch * self.w.heads
        if self.threads == 1:
            with loop(heads) as number:
                self._head(number)
                self.pack(0)
                self.queries(0, self.tiles, 0)
            return
        with parallel(heads) as number:
            self._head(number)
            self.pack(number)
        parts = max(1, min(self.tiles, tiles(self.threads * _TASKS_PER_THREAD, heads)))
        with parallel(heads * parts) as task:
            self._head(task // parts)
            first = let(task % parts * self.tiles // parts, "first")
            self.queries(first, (task % parts + 1) * self.tiles // parts - first, task // parts)

    def _head(self, number: Value) -> None:
        self.b, self.h = let(number // self.w.heads, "b"), let(number % self.w.heads, "h")


class _Writer(HeadLoops):
    """Writes the loops of one kernel into an open function.

    i0: the first query of the tile; tile, out_tile: register tiles of scores and of results.
    """

    i0: Value
    tile: list[list[Register]]
    out_tile: list[list[Register]]

    def __init__(self, frame: AttentionFrame, f: Function) -> None:
        super().__init__(frame.request, frame.tiling.tiles)
        w, t = frame.w, frame.tiling
        self.lanes, self.out_lanes, self.padded = t.lanes, t.out_lanes, t.padded
        self.rows, self.copied = t.rows, t.copied
        self.key_size, self.value_size = t.key_size, t.value_size
        buffers = [f.flat(f"x{i}") for i in range(len(w.sources))]
        self.q, self.k, self.v = (StridedOperand.of(buffers, place) for place in (w.q, w.k, w.v))
        self.out = f.flat("out")
        held = 1 if self.threads == 1 else w.batch * w.heads
        self.keys = alloc(held * self.key_size, "float32")
        self.values = alloc(held * self.value_size, "float32") if self.copied else self.v.buffer

    def pack(self, held: Index) -> None:
        """Panels of `lanes` keys, features one behind the other; dense rows of v.

        Where the last panel lacks keys it holds copies of the last one.
        """
        w, lanes, k = self.w, self.lanes, self.k
        with loop(self.padded // lanes) as jp:
            panel = held * self.key_size + jp * (w.features * lanes)
            if k.strides[3] == 1 and w.features >= lanes:
                with loop(tiles(w.features, lanes)) as dt:
                    d0 = let(overlap(dt, lanes, w.features), "d0")
                    keys = [minimum(jp * lanes + i, w.keys - 1) for i in range(lanes)]
                    rows = [let(k.buffer.load(k.index(self.b, self.h, j, d0), lanes), "row") for j in keys]
                    for i, column in enumerate(transposed(rows)):
                        self.keys.store(panel + (d0 + i) * lanes, column)
            else:
                with loop(w.features) as d, loop(lanes) as j:
                    key = minimum(jp * lanes + j, w.keys - 1)
                    self.keys[panel + d * lanes + j] = k.buffer[k.index(self.b, self.h, key, d)]
        if self.copied:
            with loop(w.keys) as j:
                row, to = self.v.index(self.b, self.h, j, 0), held * self.value_size + j * w.value_features
                for start, width in span(w.value_features, lanes):
                    self.values.store(to + start, self.v.buffer.load(row + start, width))

    def queries(self, first: Index, count: Index, held: Index) -> None:
        w, rows, lanes = self.w, self.rows, self.lanes
        self.scores = alloc(rows * self.padded, "float32")
        self.sums = alloc(rows * w.value_features, "float32")
        self.share = alloc(rows, "float32")
        self.tile = accumulators(rows, [lanes] * VECTORS, "float32")
        self.out_tile = self.tile
        if self.out_lanes != lanes:
            self.out_tile = accumulators(rows, [self.out_lanes] * VECTORS, "float32")
        self.best, self.total = Register(lanes, "float32"), Register(lanes, "float32")
        with loop(count) as tile:
            self.i0 = let(minimum((first + tile) * rows, w.queries - rows), "i0")
            self._scores(held)
            with loop(rows) as r:
                self._exponentials(r)
            self._values(held)

    def _scores(self, held: Index) -> None:
        w, lanes, q = self.w, self.lanes, self.q
        done = 0
        for size, count in even_blocks(self.padded // lanes, VECTORS):
            with loop(count) as jb:
                j0 = let(jb * (size * lanes) + done * lanes, "j0")
                start = let(held * self.key_size + j0 * w.features, "keys")

                def key(n: int, k: Value, start: Value = start) -> Value:
                    return self.keys.load(start + k * lanes + n * w.features * lanes, lanes)

                tile = [row[:size] for row in self.tile]
                _product(tile, w.features, lambda r, k: q.buffer[q.index(self.b, self.h, self.i0 + r, k)], key)
                for r, row in enumerate(tile):
                    for n, acc in enumerate(row):
                        self.scores.store(j0 + (r * self.padded + n * lanes), acc.value)
            done += size * count

    def _exponentials(self, r: Value) -> None:
        """Row r of scores becomes exp(scale * (score - largest)), share[r] = 1 / their sum."""
        w, lanes, scores = self.w, self.lanes, self.scores
        row, valid = let(r * self.padded, "row"), w.keys % lanes
        if valid:
            last = row + (self.padded - lanes)
            masked = constant(_MASKED, "float32", lanes)
            scores.store(last, select(ramp(0, lanes) < valid, scores.load(last, lanes), masked))
        self.best.value = scores.load(row, lanes)
        with loop(self.padded // lanes) as v:
            self.best.value = maximum(self.best.value, scores.load(row + v * lanes, lanes))
        largest = across(self.best.value, maximum)
        self.total.value = zeros(lanes, "float32")
        with loop(self.padded // lanes) as v:
            place = row + v * lanes
            e = let(exp((scores.load(place, lanes) - largest) * w.scale), "e")
            scores.store(place, e)
            self.total.value = self.total.value + e
        self.share[r] = 1.0 / across(self.total.value, operator.add)

    def _values(self, held: Index) -> None:
        w, lanes, features = self.w, self.out_lanes, self.w.value_features
        vectors, done = tiles(features, lanes), 0
        for size, count in even_blocks(vectors, VECTORS):
            with loop(count) as cb:
                numbers = [cb * size + (done + n) for n in range(size)]
                columns = [let(overlap(number, lanes, features), "column") for number in numbers]

                def value(n: int, k: Value, columns: list[Value] = columns) -> Value:
                    if not self.copied:
                        return self.values.load(self.v.index(self.b, self.h, k, columns[n]), lanes)
                    return self.values.load(held * self.value_size + k * features + columns[n], lanes)

                tile = [row[:size] for row in self.out_tile]
                _product(tile, w.keys, lambda r, k: self.scores[k + r * self.padded], value)
                for r, row in enumerate(tile):
                    for acc, column in zip(row, columns, strict=True):
                        self.sums.store(column + r * features, acc.value)
            done += size * count
        # A loop of its own: in the loops above, the broadcast shares would take registers from the tiles.
        start = let(((self.b * w.queries + self.i0) * w.heads + self.h) * features, "start")
        with loop(self.rows) as i, loop(vectors) as v:
            c = let(overlap(v, lanes, features), "c")
            result = self.sums.load(i * features + c, lanes) * self.share[i]
            self.out.store(start + i * (w.heads * features) + c, result)


def _product(
    tile: list[list[Register]], length: int, left: Callable[[int, Value], Value], right: Callable[[int, Value], Value]
) -> None:
    """tile[r][n] = sum over k < length of the scalar left(r, k) times the vector right(n, k)."""
    clear(tile)
    with loop(length) as k:
        columns = [let(right(n, k), "right") for n in range(len(tile[0]))]
        for r, row in enumerate(tile):
            x = let(left(r, k).broadcast(row[0].lanes), "left")
            for acc, column in zip(row, columns, strict=True):
                acc.value = acc.value + x * column
