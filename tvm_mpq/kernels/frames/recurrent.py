"""The frame of recurrent layers: the loop over the steps, with the products and the gates of one step fused.

Hidden units are cut into vectors, and a few vectors of all gates make a register tile: it starts with what the inputs
gave, a loop over the last h adds the products with R, which is packed in the order in which it is read, and the gates
are computed in registers. Nothing of a step is stored but its states, of which there are two sets: one is read, one is
written. Vectors at the end overlap. A GRU that resets before the product does the products in two rounds.

In one file: LSTM, GRU and RNN are one loop that shares its tiles, rounds and tails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Function,
    Index,
    Parameter,
    Register,
    Value,
    accumulators,
    activate,
    alloc,
    clamp,
    even_blocks,
    fill_overlapping,
    fit_lanes,
    function,
    if_then_else,
    let,
    loop,
    overlap,
    parallel,
    span,
    tiles,
    zeros,
)
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.work import Passes, Work, array_bytes
from tvm_mpq.schema import RecurrentWorkload

_PARALLEL_FROM = 500_000  # multiply-accumulates below which starting threads costs more than it saves


def recurrent_of(request: Request) -> RecurrentWorkload:
    """The request's workload, known to be recurrent."""
    assert isinstance(request.workload, RecurrentWorkload)
    return request.workload


class RecurrentFrame:
    """Plans the loops from the knobs {"rows", "units"}: sequences and vectors of hidden units of a register tile.

    blocks: vectors of hidden units; groups: (vectors of a tile, how many such tiles), in their order.
    """

    def __init__(self, request: Request, knobs: Knobs, lanes: int | None = None) -> None:
        self.request, self.w = request, recurrent_of(request)
        self.lanes = lanes or fit_lanes(self.w.hidden, native_lanes(request.features))
        self.rows, self.units = int(knobs["rows"]), int(knobs["units"])
        self.blocks = tiles(self.w.hidden, self.lanes)
        self.groups = even_blocks(self.blocks, self.units)

    @cached_property
    def rounds(self) -> tuple[tuple[int, ...], ...]:
        """The gates of each pass over h."""
        w = self.w
        return ((0, 1), (2,)) if w.cell == "gru" and not w.reset_after else (tuple(range(w.gates)),)

    @property
    def depth(self) -> int:
        """Elements of h that a sum is packed for."""
        return self.w.hidden

    @property
    def packed_size(self) -> int:
        """Elements of R for one direction, those of overlapping vectors twice."""
        return self.blocks * self.lanes * self.w.gates * self.depth

    @property
    def parameters(self) -> Parameters:
        """gates, [state], the packed weight, vectors, [lengths], and the result."""
        w = self.w
        activations = [Parameter("gates", w.gates_shape, "float32")]
        if w.initial == "given":
            activations.append(Parameter("state", w.state_shape, "float32"))
        constants = [
            Parameter("weight", (len(w.directions) * self.packed_size,), "float32"),
            Parameter("vectors", (w.vectors_size,), "float32"),
        ]
        if w.lengths:
            constants.append(Parameter("lengths", (w.batch,), "int32"))
        return Parameters(tuple(activations), tuple(constants), Parameter("out", w.out_shape, "float32"))

    def pack(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """R in the order in which the tiles read it: direction, round, tile, h, vector, gate, lane."""
        w = self.w
        starts = [min(block * self.lanes, w.hidden - self.lanes) for block in range(self.blocks)]
        parts = []
        for matrix in weight.reshape(len(w.directions), w.gates, w.hidden, w.hidden):
            for gates in self.rounds:
                for first, size in self._tiles():
                    units = [range(start, start + self.lanes) for start in starts[first : first + size]]
                    parts.append(self._packed_tile(matrix[list(gates)][:, np.array(units)]).reshape(-1))
        return np.ascontiguousarray(np.concatenate(parts))

    def _packed_tile(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[gate, vector, lane, h] of one tile, in the order in which a loop over h reads it."""
        return weight.transpose(3, 1, 0, 2)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        first = 0
        for size, count in self.groups:
            for _ in range(count):
                yield first, size
                first += size

    @property
    def work(self) -> Work:
        """Weights pass once a step and tile of sequences; the gates' curves count as a store each."""
        w, parameters = self.w, self.parameters
        batches = tiles(w.batch, self.rows)
        steps = len(w.directions) * batches * w.steps
        tile_products = self.blocks * w.gates * w.hidden
        packed_bytes = self.packed_size * 4
        return Work(
            products=steps * self.rows * tile_products,
            loads=steps * (tile_products + self.rows * w.hidden * len(list(self._tiles()))),
            stores=steps * self.rows * self.blocks * (w.gates + w.states),
            tiles=steps * len(list(self._tiles())),
            staged_bytes=steps * self.rows * w.states * w.hidden * 4,
            in_bytes=array_bytes(parameters.activations),
            residual_bytes=0,
            out_bytes=array_bytes([parameters.output]),
            weight_bytes=array_bytes(parameters.constants),
            macs=steps * self.rows * w.gates * w.hidden * self.blocks * self.lanes,
            steps=w.hidden,
            rows=w.steps * w.batch,
            width=w.hidden,
            passes=(Passes(len(w.directions) * packed_bytes, batches * w.steps, packed_bytes),),
        )

    def build(self) -> PrimFunc:
        """The layer's function."""
        with function(self.parameters.all()) as f:
            RecurrentWriter(self, f).write()
        return f.func


class RecurrentWriter:
    """Writes the loops of one kernel into an open function.

    d, n0: direction and first sequence of the tile; t: the step that is done, as the gates count them; side: which set
    of states is read; old, new: where the states that are read and written begin.
    """

    d: Value
    n0: Value
    t: Value
    side: Value
    old: Value
    new: Value

    def __init__(self, frame: RecurrentFrame, f: Function) -> None:
        self.frame, self.w, self.lanes, self.rows = frame, frame.w, frame.lanes, frame.rows
        w = frame.w
        self.gates, self.weight, self.vectors, self.out = (f.flat(n) for n in ("gates", "weight", "vectors", "out"))
        self.start: tuple[Buffer, int] | None = None
        if w.initial == "given":
            self.start = f.flat("state"), 0
        elif w.initial == "constant":
            self.start = self.vectors, w.parts["state"][0]
        self.lengths = f.flat("lengths") if w.lengths else None
        tasks = len(w.directions) * tiles(w.batch, self.rows)
        self.threads = frame.request.threads if w.macs >= _PARALLEL_FROM and tasks > 1 else 1

    def write(self) -> None:
        batches = tiles(self.w.batch, self.rows)
        with self._tasks(len(self.w.directions) * batches) as task:
            self.d = let(task // batches, "direction")
            self.n0 = let(overlap(task % batches, self.rows, self.w.batch), "n0")
            self._sequence()

    @contextmanager
    def _tasks(self, count: int) -> Iterator[Value]:
        with parallel(count) if self.threads > 1 else loop(count) as task:
            yield task

    def _sequence(self) -> None:
        """All steps of the tile's sequences."""
        w = self.w
        self.size = self.rows * w.hidden
        self.held = [alloc(2 * self.size, "float32") for _ in range(w.states)]
        self.update = alloc(self.size, "float32") if len(self.frame.rounds) > 1 else None
        self._allocate()
        self.scratch = Register(self.lanes, "float32")
        self._begin()
        length = w.steps if self.lengths is None else let(self.lengths[self.n0], "length")
        with loop(length) as s:
            self.side = let(s % 2, "side")
            self.old = let(self.side * self.size, "old")
            self.new = let(self.size - self.old, "new")
            self.t = let(self._time(s, length), "t")
            for number, _ in enumerate(self.frame.rounds):
                self._round(number)
        if self.lengths is not None:
            with loop(length, w.steps) as s:
                fill_overlapping(self.out, self._out(s, 0), zeros(1, "float32"), w.hidden)
        if w.emits_states:
            last = let(length % 2 * self.size, "last") if isinstance(length, Value) else length % 2 * self.size
            for state, held in enumerate(self.held):
                for r in range(self.rows):
                    for u, lanes in span(w.hidden, self.lanes):
                        self.out.store(self._out(w.steps + state, r) + u, held.load(last + r * w.hidden + u, lanes))

    def _allocate(self) -> None:
        """What the products read and leave."""
        self.reset = alloc(self.size, "float32") if len(self.frame.rounds) > 1 else None
        self.tile = self._accumulators("float32")

    def _accumulators(self, dtype: str) -> list[list[Register]]:
        most = max(len(gates) for gates in self.frame.rounds) * min(self.frame.units, self.frame.blocks)
        return accumulators(self.rows, [self.lanes] * most, dtype)

    def _time(self, s: Value, length: Index) -> Value:
        backwards = length - 1 - s
        assert isinstance(backwards, Value)
        if self.w.directions == ("forward",):
            return s
        if self.w.directions == ("reverse",):
            return backwards
        reverse = self.w.directions.index("reverse")
        return if_then_else(self.d < 1, *((backwards, s) if reverse == 0 else (s, backwards)))

    def _begin(self) -> None:
        """The states before the first step."""
        w = self.w
        for state, held in enumerate(self.held):
            for r in range(self.rows):
                if self.start is None:
                    fill_overlapping(held, r * w.hidden, zeros(1, "float32"), w.hidden)
                    continue
                buffer, offset = self.start
                row = ((state * len(w.directions) + self.d) * w.batch + self.n0 + r) * w.hidden + offset
                for u, lanes in span(w.hidden, self.lanes):
                    held.store(u + r * w.hidden, buffer.load(row + u, lanes))

    def _out(self, row: Index, r: int) -> Value:
        """Where the result of a step, or a last state, begins."""
        return ((row * len(self.w.directions) + self.d) * self.w.batch + self.n0 + r) * self.w.hidden

    def _round(self, number: int) -> None:
        """One pass over all hidden units."""
        w, depth, gates = self.w, self.frame.depth, self.frame.rounds[number]
        before = sum(len(gates) for gates in self.frame.rounds[:number]) * self.frame.blocks * depth * self.lanes
        done = 0
        for size, count in self.frame.groups:
            with loop(count) as group:
                block = let(group * size + done, "block")
                weights = self.d * self.frame.packed_size + before + block * (depth * len(gates) * self.lanes)
                units = [let(overlap(block + n, self.lanes, w.hidden), "unit") for n in range(size)]
                self._products(number, let(weights, "weights"), units)
                for n, unit in enumerate(units):
                    for r in range(self.rows):
                        accs = self.tile[r][n * len(gates) : (n + 1) * len(gates)]
                        sums = [self._sum(acc, r, gate, unit) for acc, gate in zip(accs, gates, strict=True)]
                        self._finish(number, r, unit, sums)
            done += size * count

    def _products(self, number: int, weights: Value, units: list[Value]) -> None:
        """tile[r][unit, gate] = what the inputs gave + the product of R with h, or with what is left of it."""
        w, gates = self.w, self.frame.rounds[number]
        vectors = len(units) * len(gates)
        for r in range(self.rows):
            for n, unit in enumerate(units):
                for g, gate in enumerate(gates):
                    self.tile[r][n * len(gates) + g].value = self._first(r, gate, unit)
        source, origin = (self.held[0], self.old) if number == 0 else (self.reset, 0)
        assert source is not None
        with loop(w.hidden) as k:
            row = weights + k * (vectors * self.lanes)
            columns = [let(self.weight.load(row + v * self.lanes, self.lanes), "r") for v in range(vectors)]
            for r in range(self.rows):
                h = let(source[k + origin + r * w.hidden].broadcast(self.lanes), "h")
                for v, column in enumerate(columns):
                    acc = self.tile[r][v]
                    acc.value = acc.value + h * column

    def _sum(self, acc: Register, r: int, gate: int, unit: Value) -> Value:
        """What a gate's product and what comes with it add up to."""
        return let(acc.value, "sum")

    def _first(self, r: int, gate: int, unit: Value) -> Value:
        """Where a sum starts; behind a product that is reset, it is that product's own bias."""
        if self.w.reset_after and gate == 2:
            offset, _ = self.w.parts["reset_bias"]
            return self.vectors.load(self.d * self.w.hidden + unit + offset, self.lanes)
        return self._input(r, gate, unit)

    def _input(self, r: int, gate: int, unit: Value) -> Value:
        w = self.w
        row = (self.t * w.batch + self.n0 + r) * (len(w.directions) * w.gates * w.hidden)
        return self.gates.load(row + (self.d * w.gates + gate) * w.hidden + unit, self.lanes)

    def _finish(self, number: int, r: int, unit: Value, sums: list[Value]) -> None:
        """The gates of one vector of units, and with the last round the new states."""
        w, place = self.w, unit + r * self.w.hidden
        if w.cell == "lstm":
            states = self._lstm(unit, self._held(1, place), sums)
        elif w.cell == "rnn":
            states = [self._act(0, sums[0])]
        elif number == 0 and len(self.frame.rounds) > 1:
            assert self.update is not None
            self.update.store(place, self._act(0, sums[0]))
            self._keep_reset(r, unit, self._act(0, sums[1]) * self._held(0, place))
            return
        else:
            h = self._held(0, place)
            if self.update is not None:
                z, new = self.update.load(place, self.lanes), self._act(1, sums[0])
            else:
                z, reset = self._act(0, sums[0]), self._act(0, sums[1])
                new = self._act(1, self._multiply_add(reset, sums[2], self._input(r, 2, unit)))
            states = [let(self._multiply_add(z, h - new, new), "h")]
        self._keep(r, unit, states)
        self.out.store(self._out(self.t, r) + unit, states[0])

    def _keep(self, r: int, unit: Value, states: list[Value]) -> None:
        """For the next step."""
        for held, value in zip(self.held, states, strict=True):
            held.store(self.new + unit + r * self.w.hidden, value)

    def _keep_reset(self, r: int, unit: Value, value: Value) -> None:
        """What the reset gate leaves of h, for the second round."""
        assert self.reset is not None
        self.reset.store(unit + r * self.w.hidden, value)

    def _held(self, state: int, place: Value) -> Value:
        return let(self.held[state].load(self.old + place, self.lanes), "held")

    def _lstm(self, unit: Value, c: Value, sums: list[Value]) -> list[Value]:
        i, o, f, z = sums
        i = self._act(0, self._peep(i, 0, unit, c))
        f = 1.0 - i if self.w.coupled else self._act(0, self._peep(f, 2, unit, c))
        new = self._act(1, z)
        c = let(_bounded(let(self._multiply_add(f, c, i * new), "c"), self.w.cell_clip), "c")
        o = self._act(0, self._peep(o, 1, unit, c))
        return [let(o * self._act(2, c, clip=False), "h"), c]

    def _peep(self, x: Value, place: int, unit: Value, c: Value) -> Value:
        if not self.w.peepholes:
            return x
        offset, _ = self.w.parts["peepholes"]
        weight = self.vectors.load((self.d * 3 + place) * self.w.hidden + unit + offset, self.lanes)
        return self._multiply_add(weight, c, x)

    def _multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        return c + a * b

    def _activate(self, x: Value, activation: str) -> Value:
        return activate(x, activation)

    def _act(self, place: int, x: Value, *, clip: bool = True) -> Value:
        """An activation, through a register: TVM's simplifier sees through chains of names, in exponential time."""
        self.scratch.value = _bounded(x, self.w.clip) if clip else x
        self.scratch.value = self._activate(self.scratch.value, self.w.activations[place])
        return let(self.scratch.value, "activated")


def _bounded(x: Value, bound: float) -> Value:
    return clamp(x, -bound, bound) if bound else x
