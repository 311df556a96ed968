"""The frame of layer normalisation along the last axis: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.

A row is read once from memory, centered in a small buffer, and written once. Bytes are dequantized on the way in and
quantized on the way out, so that a network whose other operators work on bytes needs no boundary around it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Function,
    Index,
    Parameter,
    Register,
    Value,
    alloc,
    clamp,
    function,
    let,
    loop,
    ramp,
    select,
    sqrt,
    tiles,
    zeros,
)
from tvm_mpq.kernels.emit.lanes import across
from tvm_mpq.kernels.emit.quantize import rounded
from tvm_mpq.kernels.frames.elementwise import rows
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.work import Work, array_bytes
from tvm_mpq.schema import FLOAT_BITS, NormWorkload

_WEIGHTS = ("gamma", "beta")


def norm_of(request: Request) -> NormWorkload:
    """The request's workload, known to be a normalisation."""
    assert isinstance(request.workload, NormWorkload)
    return request.workload


def norm_parameters(request: Request) -> Parameters:
    """x, [q_in, f_in], gamma, beta, [q_out, f_out], out; q and f are the numbers of the `convert` kernels."""
    w = norm_of(request)

    def numbers(side: str, floats: bool) -> list[Parameter]:
        return [] if floats else [Parameter(f"q_{side}", (8,), "int32"), Parameter(f"f_{side}", (4,), "float32")]

    float_in, float_out = request.precision.is_float, request.out_bits == FLOAT_BITS
    weights = [Parameter(name, (w.channels,), "float32") for name in _WEIGHTS]
    return Parameters(
        (Parameter("x", w.shape, "float32" if float_in else "uint8"),),
        (*numbers("in", float_in), *weights, *numbers("out", float_out)),
        Parameter("out", w.shape, "float32" if float_out else "uint8"),
    )


def norm_work(request: Request, knobs: Knobs) -> Work:
    """A row is read into a small buffer, which then passes twice."""
    w, parameters = norm_of(request), norm_parameters(request)
    vectors = w.rows * tiles(w.channels, knobs["lanes"])
    weights = [array for array in parameters.constants if array.name in _WEIGHTS]
    return Work(
        products=3 * vectors,  # the sum, the sum of squares, the result
        loads=6 * vectors,  # x, the buffer three times, gamma and beta
        stores=2 * vectors,
        tiles=w.rows,
        staged_bytes=w.rows * w.channels * 4,
        in_bytes=array_bytes(parameters.activations),
        residual_bytes=0,
        out_bytes=array_bytes([parameters.output]),
        weight_bytes=array_bytes(weights),
        macs=3 * w.rows * w.channels,
        steps=tiles(w.channels, knobs["lanes"]),
        rows=w.rows,
        width=w.channels,
    )


def build_norm(request: Request, knobs: Knobs) -> PrimFunc:
    """The normalisation of `request` with knobs {"lanes"}."""
    with function(norm_parameters(request).all()) as f:
        _Writer(request, knobs["lanes"], f).write(request.threads)
    return f.func


class _Writer:
    """Writes the loops of one kernel into an open function; a last vector of a row overlaps the one before it.

    r: the row that is being done, which `row` holds as floats; total: the sum of its lanes. Bytes are centered as they
    are: neither their zero point nor, but for epsilon, their scale changes the result.
    """

    r: Value
    total: Register

    def __init__(self, request: Request, lanes: int, f: Function) -> None:
        self.w, self.lanes, self.channels = norm_of(request), lanes, norm_of(request).channels
        self.from_bytes, self.to_bytes = not request.precision.is_float, request.out_bits != FLOAT_BITS
        self.x, self.out = f.flat("x"), f.flat("out")
        self.gamma, self.beta = f.flat("gamma"), f.flat("beta")
        if self.from_bytes:
            self.scale = let(f.flat("f_in")[0], "scale")
        if self.to_bytes:
            self._scale_weights(f)

    def _scale_weights(self, f: Function) -> None:
        """gamma and beta in units of the output's steps, with its zero point; and the output's range."""
        q, step = f.flat("q_out"), f.flat("f_out")
        self.low, self.high = let(q[2].cast("float32"), "low"), let(q[3].cast("float32"), "high")
        gamma, beta = self.gamma, self.beta
        self.gamma, self.beta = alloc(self.channels, "float32"), alloc(self.channels, "float32")
        with loop(self.channels) as c:
            self.gamma[c] = gamma[c] / step[0]
            self.beta[c] = beta[c] / step[0] + q[0].cast("float32")

    def write(self, threads: int) -> None:
        with rows(threads, self.w.rows, self.w.rows * self.channels) as self.r:
            self.row = alloc(self.channels, "float32")
            self.total = Register(self.lanes, "float32")
            self._row()

    def _row(self) -> None:
        lanes = self.lanes
        self.total.value = zeros(lanes, "float32")
        for start, seen in self._vectors(lanes):
            value = self.x.load(self.r * self.channels + start, lanes)
            self.row.store(start, value.cast("int32").cast("float32") if self.from_bytes else value)
            self._add(self.row.load(start, lanes), seen)
        mean = let(across(self.total.value, operator.add) / float(self.channels), "mean")
        self.total.value = zeros(lanes, "float32")
        for start, seen in self._vectors(lanes):
            off = let(self.row.load(start, lanes) - mean, "off")
            self._add(off * off, seen)
        variance = across(self.total.value, operator.add) / float(self.channels)
        if self.from_bytes:
            factor = self.scale / sqrt(variance * (self.scale * self.scale) + self.w.epsilon)
        else:
            factor = 1.0 / sqrt(variance + self.w.epsilon)
        factor = let(factor, "factor")
        # Narrowing two vectors at once: storing the bytes of a single one takes far longer on some cores.
        wide = 2 * lanes if self.channels >= 2 * lanes else lanes
        for start, _ in self._vectors(wide):
            y = (self.row.load(start, wide) - mean) * factor * self.gamma.load(start, wide) + self.beta.load(
                start, wide
            )
            if self.to_bytes:
                y = rounded(clamp(y, self.low, self.high)).cast("uint8")
            self.out.store(self.r * self.channels + start, y)

    def _vectors(self, lanes: int) -> Iterator[tuple[Index, int]]:
        """First channel of each vector of a row, and how many of its lanes the one before it had too."""
        full, rest = divmod(self.channels, lanes)
        with loop(full) as v:
            yield v * lanes, 0
        if rest:
            yield self.channels - lanes, lanes - rest

    def _add(self, value: Value, seen: int) -> None:
        if seen:
            value = select(ramp(0, self.lanes) >= seen, value, zeros(self.lanes, "float32"))
        self.total.value = self.total.value + value
