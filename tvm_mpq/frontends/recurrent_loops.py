"""Recurrent layers as plain TensorIR: scalar loops that say what they compute, and that any compiler can run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from tvm_mpq.schema import WORKLOAD_ATTRIBUTE, RecurrentWorkload

_OPAQUE = 8  # TVM's op pattern: operator fusion leaves the function alone


def loop_nest(w: RecurrentWorkload) -> PrimFunc:
    """The layer as scalar loops over gates, [state], weight, vectors and the result."""
    shapes = {"gates": w.gates_shape}
    if w.initial == "given":
        shapes["state"] = w.state_shape
    shapes |= {"weight": w.weight_shape, "vectors": (w.vectors_size,), "out": w.out_shape}
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("recurrent")
            attributes = {WORKLOAD_ATTRIBUTE: json.dumps(w.to_json()), "op_pattern": _OPAQUE}
            T.func_attr({**attributes, "tirx.noalias": True, "tirx.is_scheduled": True})
            operands = {name: T.arg(name, T.buffer(shape, "float32")) for name, shape in shapes.items()}
            _Loops(w, operands).write()
    func = builder.get()
    return func.with_body(SBlockRealize([], True, SBlock([], [], [], "root", func.body)))


class _Loops:
    """Writes the loops. d, n: direction and sequence; t: the step; h, c: its states; sums: of each gate."""

    n: Any

    def __init__(self, w: RecurrentWorkload, operands: dict[str, Any]) -> None:
        self.w, self.operands = w, operands

    def write(self) -> None:
        w = self.w
        self.held = [T.alloc_buffer((w.hidden,), "float32") for _ in range(w.states)]
        self.sums = T.alloc_buffer((w.gates * w.hidden,), "float32")
        self.reset = T.alloc_buffer((w.hidden,), "float32")
        for self.d, direction in enumerate(w.directions):
            if not w.lengths:
                with T.serial(0, w.batch) as self.n:
                    self._sequence(direction, w.steps)
            for self.n, length in enumerate(w.lengths):
                self._sequence(direction, length)

    def _sequence(self, direction: str, length: int) -> None:
        w, out = self.w, self.operands["out"]
        with self._units() as j:
            for number, held in enumerate(self.held):
                T.buffer_store(held, self._start(number, j), [j])
        with T.serial(0, length) as s:
            self.t = s if direction == "forward" else length - 1 - s
            _CELLS[w.cell](self)
            with self._units() as j:
                T.buffer_store(out, self.held[0][j], [self.t, self.d, self.n, j])
        with T.serial(length, w.steps) as s, self._units() as j:
            T.buffer_store(out, T.float32(0), [s, self.d, self.n, j])
        if w.emits_states:
            with self._units() as j:
                for number, held in enumerate(self.held):
                    T.buffer_store(out, held[j], [w.steps + number, self.d, self.n, j])

    @contextmanager
    def _units(self) -> Iterator[Any]:
        with T.serial(0, self.w.hidden) as j:
            yield j

    def _start(self, number: int, j: Any) -> Any:
        w = self.w
        if w.initial == "zero":
            return T.float32(0)
        if w.initial == "given":
            return self.operands["state"][number, self.d, self.n, j]
        at = ((number * len(w.directions) + self.d) * w.batch + self.n) * w.hidden + j
        return self._vector("state", at)

    def _vector(self, name: str, at: Any) -> Any:
        return self.operands["vectors"][at + self.w.parts[name][0]]

    def products(self, gates: range, factor: Callable[[Any], Any] | None = None) -> None:
        """sums[gate, j] = sum over k of R[gate, j, k] h[k], perhaps times factor(k)."""
        w, (h, *_) = self.w, self.held
        with T.serial(gates.start * w.hidden, gates.stop * w.hidden) as row:
            T.buffer_store(self.sums, T.float32(0), [row])
            with self._units() as k:
                product = self.operands["weight"][self.d, row, k] * (h[k] if factor is None else h[k] * factor(k))
                T.buffer_store(self.sums, self.sums[row] + product, [row])

    def input(self, gate: int, j: Any) -> Any:
        return self.operands["gates"][self.t, self.n, (self.d * self.w.gates + gate) * self.w.hidden + j]

    def sum(self, gate: int, j: Any) -> Any:
        return self.sums[j + gate * self.w.hidden]

    def act(self, place: int, x: Any, *, clip: bool = True) -> Any:
        if clip:
            x = _bounded(x, self.w.clip)
        base, *numbers = self.w.activations[place].split(":")
        return ACTIVATIONS[base](x, *map(float, numbers))

    def keep(self, buffer: Any, j: Any, value: Any) -> Any:
        T.buffer_store(buffer, value, [j])
        return buffer[j]

    def lstm(self) -> None:
        w, (h, c) = self.w, self.held
        self.products(range(4))
        with self._units() as j:

            def gate(number: int, place: int) -> Any:
                x = self.input(number, j) + self.sum(number, j)
                if w.peepholes:
                    x = x + self._vector("peepholes", (self.d * 3 + place) * w.hidden + j) * c[j]
                return self.act(0, x)

            i = self.keep(self.sums, j, gate(0, 0))
            f = T.float32(1) - i if w.coupled else gate(2, 2)
            new = self.act(1, self.input(3, j) + self.sum(3, j))
            self.keep(c, j, _bounded(f * c[j] + i * new, w.cell_clip))
            self.keep(h, j, gate(1, 1) * self.act(2, c[j], clip=False))

    def gru(self) -> None:
        w, (h,) = self.w, self.held
        self.products(range(3 if w.reset_after else 2))
        with self._units() as j:
            self.keep(self.reset, j, self.act(0, self.input(1, j) + self.sum(1, j)))
        if not w.reset_after:
            self.products(range(2, 3), lambda k: self.reset[k])
        with self._units() as j:
            product = self.sum(2, j)
            if w.reset_after:
                product = self.reset[j] * (product + self._vector("reset_bias", self.d * w.hidden + j))
            z = self.keep(self.sums, j, self.act(0, self.input(0, j) + self.sum(0, j)))
            new = self.act(1, self.input(2, j) + product)
            self.keep(h, j, (T.float32(1) - z) * new + z * h[j])

    def rnn(self) -> None:
        self.products(range(1))
        with self._units() as j:
            self.keep(self.held[0], j, self.act(0, self.input(0, j) + self.sum(0, j)))


def _bounded(x: Any, bound: float) -> Any:
    return T.max(T.min(x, T.float32(bound)), T.float32(-bound)) if bound else x


_CELLS = {"lstm": _Loops.lstm, "gru": _Loops.gru, "rnn": _Loops.rnn}

ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "sigmoid": T.sigmoid,
    "tanh": T.tanh,
    "relu": lambda x: T.max(x, T.float32(0)),
    "clip": lambda x, low, high: T.max(T.min(x, T.float32(high)), T.float32(low)),
    "leaky_relu": lambda x, alpha: T.max(x, T.float32(0)) + T.min(x, T.float32(0)) * T.float32(alpha),
}
"""Those that a recurrent layer may have, as schema names them."""
