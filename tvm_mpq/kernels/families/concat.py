"""Rows of concatenation along the channels: every part is rescaled to the output's range on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_mpq.kernels.emit import Function, Parameter, Value, fill_overlapping, let, span
from tvm_mpq.kernels.emit.quantize import ByteRange, centered
from tvm_mpq.kernels.families.weightless import (
    add_row,
    dtype_of,
    float_row,
    int_row,
    is_float,
    is_integer,
    stored_shape,
    vector_lanes,
)
from tvm_mpq.kernels.frames.elementwise import rows
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.work import Work, rowwise_work
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.requantize import multiplier
from tvm_mpq.schema import ConcatWorkload, DType

_Rescale = Callable[[Value, int], Value]
"""(vector, number of the part that it comes from) -> in the output's range."""

_BYTE_LANES, _FLOAT_LANES = 32, 16


def _workload(request: Request) -> ConcatWorkload:
    assert isinstance(request.workload, ConcatWorkload)
    return request.workload


def _parameters(request: Request) -> Parameters:
    work, dtype = _workload(request), dtype_of(request)

    def array(name: str, channels: int) -> Parameter:
        return Parameter(name, stored_shape((work.rows, channels), is_float(request)), dtype)

    parts = len(work.channels)
    ranges = () if is_float(request) else (Parameter("q", (parts + 3,), "int32"), Parameter("f", (parts,), "float32"))
    xs = tuple(array(f"x_{i}", channels) for i, channels in enumerate(work.channels))
    return Parameters(xs, ranges, array("out", sum(work.channels)))


def _work(request: Request) -> Work:
    """Every part of a row is a row of its own."""
    parameters, count = _parameters(request), len(_workload(request).channels)
    rows, channels = parameters.output.shape
    return rowwise_work(parameters, vector_lanes(request), rows=rows * count, channels=channels / count)


def _write_floats(request: Request, f: Function) -> None:
    _write(request, f, _FLOAT_LANES, lambda value, part: value)


def _write_bytes(request: Request, f: Function) -> None:
    parts = len(_workload(request).channels)
    q, factors = f.flat("q"), f.flat("f")
    to_bytes = ByteRange(q[parts], q[parts + 1], q[parts + 2])
    scales = [(let(q[i], f"z_{i}"), let(factors[i], f"f_{i}")) for i in range(parts)]

    def rescaled(value: Value, part: int) -> Value:
        zero_point, factor = scales[part]
        return to_bytes.quantize(centered(value, zero_point) * factor)

    _write(request, f, _BYTE_LANES, rescaled, to_bytes.zero_point)


def _write(request: Request, f: Function, lanes: int, rescale: _Rescale, padding: Value | None = None) -> None:
    work = _workload(request)
    xs, out = [f.flat(f"x_{i}") for i in range(len(work.channels))], f.flat("out")
    total, stored = sum(work.channels), out.size // work.rows
    with rows(request.threads, work.rows, work.rows * total) as r:
        start = 0
        for part, (x, channels) in enumerate(zip(xs, work.channels, strict=True)):
            for c, width in span(channels, lanes):
                value = x.load(r * (x.size // work.rows) + c, width)
                out.store(r * stored + start + c, rescale(value, part))
            start += channels
        if padding is not None:
            fill_overlapping(out, r * stored + total, padding, stored - total)


def _constants(request: Request, operands: Operands) -> list[np.ndarray]:
    parts = len(_workload(request).channels)
    end = constants.finish("none", request.out_bits, operands)
    inputs = [constants.integer_input(operands, i) for i in range(parts)]
    q = int_row(*(t.zero_point for t in inputs), end.zero_point, end.lo, end.hi, size=parts + 3)
    return [q, float_row(*(multiplier(t.scale, output=end.scale) for t in inputs), size=parts)]


add_row(
    "qu8_f32_concat__generic",
    ConcatWorkload,
    ranges="inputs and zero points 0..255",
    accepts=is_integer,
    parameters=_parameters,
    write=_write_bytes,
    work=_work,
    constants=_constants,
)
add_row(
    "f32_concat__generic",
    ConcatWorkload,
    dtype=DType.FP32,
    ranges="any float32",
    accepts=is_float,
    parameters=_parameters,
    write=_write_floats,
    work=_work,
)
