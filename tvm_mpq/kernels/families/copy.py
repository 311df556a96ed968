"""Rows of slices, strided slices, zero padding and their compositions: fill the output, then copy runs into it.

Axes that are taken whole are merged with the axis before them, so that the runs get long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tvm_mpq.kernels.emit import Buffer, Function, Index, Parameter, bind, constant, let, loop, span
from tvm_mpq.kernels.families.weightless import (
    add_row,
    dtype_of,
    int_row,
    is_float,
    is_integer,
    stored_shape,
    vector_lanes,
)
from tvm_mpq.kernels.frames.elementwise import flat, rows
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.work import Work, array_bytes, rowwise_work
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import CopyWorkload, DType

_BYTE_LANES, _FLOAT_LANES = 64, 16
_EASE = 4  # elements copied in the time of one addition


def _workload(request: Request) -> CopyWorkload:
    assert isinstance(request.workload, CopyWorkload)
    return request.workload


@dataclass(frozen=True)
class CopyAxis:
    """Along one axis, out[pad + k] = source[begin + stride * k] for k in [0, count)."""

    source: int
    out: int
    begin: int
    stride: int
    count: int
    pad: int

    @property
    def is_whole(self) -> bool:
        """The output has all of the source and nothing else."""
        return self.stride == 1 and self.count == self.source == self.out

    def merged(self, inner: int) -> CopyAxis:
        """This axis with a whole inner axis of `inner` elements taken in."""
        return replace(
            self,
            source=self.source * inner,
            out=self.out * inner,
            begin=self.begin * inner,
            count=self.count * inner,
            pad=self.pad * inner,
        )


def _merged_axes(request: Request) -> list[CopyAxis]:
    work = _workload(request)
    source, out = (stored_shape(s, is_float(request)) for s in (work.in_shape, work.out_shape))
    columns = zip(source, out, work.begin, work.stride, work.count, work.pad_before, strict=True)
    axes = [CopyAxis(*values) for values in columns]
    if work.count[-1] == work.in_shape[-1] == work.out_shape[-1] and work.stride[-1] == 1:
        axes[-1] = replace(axes[-1], count=source[-1])  # the padding of the channels goes along
    while len(axes) > 1 and axes[-1].is_whole and axes[-2].stride == 1:
        inner = axes.pop()
        axes[-1] = axes[-1].merged(inner.count)
    return axes


def _parameters(request: Request) -> Parameters:
    work, dtype = _workload(request), dtype_of(request)
    x, out = (stored_shape(shape, is_float(request)) for shape in (work.in_shape, work.out_shape))
    ranges = () if is_float(request) else (Parameter("q", (8,), "int32"),)
    return Parameters((Parameter("x", x, dtype),), ranges, Parameter("out", out, dtype))


def _work(request: Request) -> Work:
    """The whole output is written, and what is taken of the input is read."""
    parameters = _parameters(request)
    taken = replace(parameters.output, shape=_workload(request).count)
    return rowwise_work(parameters, vector_lanes(request), in_bytes=array_bytes([taken]))


def _write(request: Request, f: Function) -> None:
    x, out, axes = f.flat("x"), f.flat("out"), _merged_axes(request)
    lanes = _FLOAT_LANES if is_float(request) else _BYTE_LANES
    copied = math.prod(axis.count for axis in axes)
    if copied < out.size:
        zero = constant(0, "float32") if is_float(request) else let(f.flat("q")[0].cast("uint8"), "zero")
        with flat(request.threads, out.size, lanes, ease=_EASE) as (i, width):
            out.store(i, zero.broadcast(width))
    if copied:
        _copy(request.threads, x, out, axes, lanes)


def _copy(threads: int, x: Buffer, out: Buffer, axes: list[CopyAxis], lanes: int) -> None:
    *outer, last = axes
    count = math.prod(axis.count for axis in outer)
    with rows(threads, count, count * last.count // _EASE) as r:
        rest, source_size, out_size = count, x.size, out.size
        source: Index = last.begin
        target: Index = last.pad
        for axis in outer:
            rest, source_size, out_size = rest // axis.count, source_size // axis.source, out_size // axis.out
            k = let(r // rest % axis.count, "k")
            source = (k * axis.stride + axis.begin) * source_size + source
            target = (k + axis.pad) * out_size + target
        source, target = bind(source, "source"), bind(target, "target")
        if last.stride == 1:
            for c, width in span(last.count, lanes):
                out.store(target + c, x.load(source + c, width))
            return
        with loop(last.count) as c:
            out[target + c] = x[source + c * last.stride]


def _constants(request: Request, operands: Operands) -> list[np.ndarray]:
    return [int_row(constants.integer_input(operands, 0).zero_point)]


add_row(
    "qu8_copy__generic",
    CopyWorkload,
    ranges="input 0..255",
    accepts=is_integer,
    parameters=_parameters,
    write=_write,
    work=_work,
    constants=_constants,
)
add_row(
    "f32_copy__generic",
    CopyWorkload,
    dtype=DType.FP32,
    ranges="any float32",
    accepts=is_float,
    parameters=_parameters,
    write=_write,
    work=_work,
)
