"""The frame of recurrent layers whose products with R are of bytes, as `numerics.recurrent_bytes` defines them.

The loops are those of recurrent layers on floats. Beside its states in floats, a step leaves h once more as integers,
in the form in which the machine multiplies them: a few neighbours, the same in all lanes, meet a vector of weights.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Function,
    Parameter,
    Register,
    Value,
    alloc,
    clamp,
    fill_overlapping,
    fit_lanes,
    fma,
    function,
    let,
    loop,
    span,
    tiles,
    zeros,
)
from tvm_mpq.kernels.emit.fused_activations import activate_fused
from tvm_mpq.kernels.emit.quantize import ByteRange, rounded
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.frames.recurrent import RecurrentFrame, RecurrentWriter, recurrent_of
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.work import Passes, Work, array_bytes
from tvm_mpq.schema import RecurrentWorkload

_ELEMENT_BYTES = {"int8": 1, "int16": 2}


class StateMachine(ABC):
    """What multiplies h by weights.

    lanes: sums of 32 bits in a vector, 0 = as many as the CPU has; terms: neighbours of h that a step takes; centered:
    whether these are words less their zero point, else bytes as they are; stored: types weights may be packed in, the
    smallest first.
    """

    lanes: int
    terms: int
    centered: bool
    stored: tuple[str, ...]

    @abstractmethod
    def add_products(self, acc: Value, states: Value, weights: Value) -> Value:
        """acc int32[lanes] + the products of lane i's `terms` neighbours, int16 or uint8, and as many weights."""

    def fit(self, w: RecurrentWorkload, features: frozenset[str]) -> int:
        """Lanes for a layer."""
        return self.lanes or fit_lanes(w.hidden, native_lanes(features))


class ByteRecurrentFrame(RecurrentFrame):
    """Plans the loops from the knobs {"rows", "units", "stored"}: the last is the type of packed weights."""

    def __init__(self, request: Request, knobs: Knobs, machine: StateMachine) -> None:
        super().__init__(request, knobs, machine.fit(recurrent_of(request), request.features))
        self.machine, self.stored = machine, str(knobs["stored"])

    @property
    def depth(self) -> int:
        return tiles(self.w.hidden, self.machine.terms) * self.machine.terms

    @property
    def parameters(self) -> Parameters:
        """gates, [state]; the packed weight, vectors, factors of sums, their offsets where h is not centered, [lengths]
        and the range of h; the result."""
        base, w = super().parameters, self.w
        rows = len(w.directions) * w.gates * w.hidden
        vectors, *lengths = base.constants[1:]
        offsets = [] if self.machine.centered else [Parameter("offsets", (rows,), "int32")]
        constants = (
            Parameter("weight", (len(w.directions) * self.packed_size,), self.stored),
            vectors,
            Parameter("factors", (rows,), "float32"),
            *offsets,
            *lengths,
            Parameter("q", (8,), "int32"),
            Parameter("f", (4,), "float32"),
        )
        return Parameters(base.activations, constants, base.output)

    def _packed_tile(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Neighbours of h side by side; zeros behind the last."""
        *shape, hidden = weight.shape
        padded = np.pad(weight, [(0, 0)] * 3 + [(0, self.depth - hidden)]).astype(self.stored)
        return padded.reshape(*shape, -1, self.machine.terms).transpose(3, 1, 0, 2, 4)

    @property
    def work(self) -> Work:
        """As of layers on floats, with several products in one, and h stored once more."""
        work, w, terms = super().work, self.w, self.machine.terms
        steps = len(w.directions) * tiles(w.batch, self.rows) * w.steps
        products = steps * self.blocks * w.gates * self.depth // terms
        packed_bytes = self.packed_size * _ELEMENT_BYTES[self.stored]
        return dataclasses.replace(
            work,
            products=products * self.rows,
            loads=products + steps * self.rows * self.depth // terms * sum(count for _, count in self.groups),
            weight_bytes=array_bytes(self.parameters.constants),
            staged_bytes=work.staged_bytes + steps * self.rows * self.depth * (2 if self.machine.centered else 1),
            macs=products * self.rows * terms * self.lanes,
            steps=self.depth // terms,
            passes=(Passes(len(w.directions) * packed_bytes, work.passes[0].times, packed_bytes),),
        )

    def build(self) -> PrimFunc:
        with function(self.parameters.all()) as f:
            _Writer(self, f).write()
        return f.func


class _Writer(RecurrentWriter):
    """codes: h as integers, two sets as of the states; size_of_codes: of one set."""

    def __init__(self, frame: ByteRecurrentFrame, f: Function) -> None:
        super().__init__(frame, f)
        self.machine, self.depth, self.stored = frame.machine, frame.depth, frame.stored
        self.factors, q = f.flat("factors"), f.flat("q")
        self.offsets = None if self.machine.centered else f.flat("offsets")
        self.range, self.per_step = ByteRange(q[0], q[1], q[2]), let(f.flat("f")[0], "per_step")

    def _allocate(self) -> None:
        self.size_of_codes = self.rows * self.depth
        dtype = "int16" if self.machine.centered else "uint8"
        self.codes = alloc(2 * self.size_of_codes, dtype)
        self.reset_codes = alloc(self.size_of_codes, dtype) if len(self.frame.rounds) > 1 else None
        self.tile = self._accumulators("int32")

    def _begin(self) -> None:
        """Also as integers; their padding, which meets weights of zero, is defined once."""
        super()._begin()
        w = self.w
        for codes, size in ((self.codes, 2 * self.size_of_codes), (self.reset_codes, self.size_of_codes)):
            if codes is not None and self.depth > w.hidden:
                fill_overlapping(codes, 0, zeros(1, codes.dtype), size)
        for r in range(self.rows):
            for u, lanes in span(w.hidden, self.lanes):
                self.codes.store(u + r * self.depth, self._code(self.held[0].load(u + r * w.hidden, lanes)))

    def _code(self, h: Value) -> Value:
        y = let(h * self.per_step, "steps")
        if not self.machine.centered:
            return self.range.quantize(y)
        return rounded(let(clamp(y, self.range.low, self.range.high), "within")).cast("int16")

    def _products(self, number: int, weights: Value, units: list[Value]) -> None:
        """tile[r][unit, gate] = the sum of R's integers times those of h, or of what is left of it."""
        w, lanes, terms, gates = self.w, self.lanes, self.machine.terms, self.frame.rounds[number]
        vectors, width = len(units) * len(gates), lanes * terms
        for n, unit in enumerate(units):
            for g, gate in enumerate(gates):
                first = zeros(lanes, "int32")
                if self.offsets is not None:
                    row = (self.d * w.gates + gate) * w.hidden + unit
                    first = let(self.offsets.load(row, lanes), "offset")
                for r in range(self.rows):
                    self.tile[r][n * len(gates) + g].value = first
        source = self.codes if number == 0 else self.reset_codes
        assert source is not None
        origin = let(self.side * self.size_of_codes, "origin") if number == 0 else 0
        with loop(self.depth // terms) as k:
            row = weights + k * (vectors * width)
            neighbours = []
            for r in range(self.rows):
                few = source.load(k * terms + origin + r * self.depth, terms).reinterpret("int32", 1)
                neighbours.append(let(few.broadcast(lanes).reinterpret(source.dtype, width), "h"))
            for v in range(vectors):
                column = let(self.weight.load(row + v * width, width), "r")
                for r, h in enumerate(neighbours):
                    acc = self.tile[r][v]
                    acc.value = self.machine.add_products(acc.value, h, column)

    def _sum(self, acc: Register, r: int, gate: int, unit: Value) -> Value:
        factor = self.factors.load((self.d * self.w.gates + gate) * self.w.hidden + unit, self.lanes)
        return let(fma(acc.value.cast("float32"), factor, self._first(r, gate, unit)), "sum")

    def _keep(self, r: int, unit: Value, states: list[Value]) -> None:
        super()._keep(r, unit, states)
        place = (1 - self.side) * self.size_of_codes + unit + r * self.depth
        self.codes.store(place, self._code(states[0]))

    def _keep_reset(self, r: int, unit: Value, value: Value) -> None:
        assert self.reset_codes is not None
        self.reset_codes.store(unit + r * self.depth, self._code(let(value, "reset")))

    def _multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        return fma(a, b, c)

    def _activate(self, x: Value, activation: str) -> Value:
        return activate_fused(x, activation)
