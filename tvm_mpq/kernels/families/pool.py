"""Rows of pooling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_mpq.kernels.emit import Function, Index, Parameter, Value, constant, let, maximum
from tvm_mpq.kernels.emit.quantize import ByteRange, centered
from tvm_mpq.kernels.families.terms import mean_terms
from tvm_mpq.kernels.families.weightless import (
    add_row,
    dtype_of,
    int_row,
    is_float,
    is_integer,
    stored_shape,
    vector_lanes,
)
from tvm_mpq.kernels.frames.pool import Mean, PoolFrame, window_axes
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.work import Work, rowwise_work
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import DType, Pool2dWorkload


def _workload(request: Request) -> Pool2dWorkload:
    assert isinstance(request.workload, Pool2dWorkload)
    return request.workload


def _parameters(request: Request) -> Parameters:
    work, dtype = _workload(request), dtype_of(request)
    x = stored_shape((work.batch, work.in_height, work.in_width, work.channels), is_float(request))
    out = (work.batch, work.out_height, work.out_width, x[-1])
    ranges: tuple[Parameter, ...] = ()
    if work.mode != "max" and not is_float(request):
        ranges = (Parameter("q", (8,), "int32"), Parameter("m", (work.kernel[0] * work.kernel[1] + 1,), "float32"))
    return Parameters((Parameter("x", x, dtype),), ranges, Parameter("out", out, dtype))


def _work(request: Request) -> Work:
    w = _workload(request)
    return rowwise_work(_parameters(request), vector_lanes(request), taps=w.kernel[0] * w.kernel[1])


def _write(request: Request, f: Function) -> None:
    work = _workload(request)
    frame = PoolFrame(work, request.threads, f)
    if work.mode == "max":
        frame.write_maximum()
    else:
        frame.write_average(_float_mean if is_float(request) else _byte_mean(f))


def _float_mean(divisor: Index, inside: Index) -> Callable[[Value], Value]:
    cells = constant(divisor, "float32") if isinstance(divisor, int) else maximum(divisor, 1).cast("float32")
    cells = let(cells, "cells")
    return lambda total: total / cells


def _byte_mean(f: Function) -> Mean:
    """One multiplier for each number of cells: m[cells]."""
    q, multipliers = f.flat("q"), f.flat("m")
    zero_point = let(q[0], "z_x")
    to_bytes = ByteRange(q[1], q[2], q[3])

    def mean(divisor: Index, inside: Index) -> Callable[[Value], Value]:
        factor = let(multipliers[divisor], "factor")
        offset = let(zero_point * inside, "offset")
        return lambda total: to_bytes.quantize(centered(total, offset) * factor)

    return mean


def _constants(request: Request, operands: Operands) -> list[np.ndarray]:
    work = _workload(request)
    if work.mode == "max":
        return []
    end = constants.finish("none", request.out_bits, operands)
    x = constants.integer_input(operands, 0)
    q = int_row(x.zero_point, end.zero_point, end.lo, end.hi)
    return [q, constants.pool_multipliers(work, operands)]


def _has_cells(request: Request) -> bool:
    """A maximum over no cell at all has no meaning."""
    work = _workload(request)
    return work.mode in ("avg", "avg_valid") or (
        work.mode == "max" and not any(axis.has_empty_window for axis in window_axes(work))
    )


add_row(
    "qu8_pool2d__generic",
    Pool2dWorkload,
    ranges="input 0..255",
    accepts=lambda request: is_integer(request) and _has_cells(request),
    parameters=_parameters,
    write=_write,
    work=_work,
    constants=_constants,
    max_terms=mean_terms,
)
add_row(
    "f32_pool2d__generic",
    Pool2dWorkload,
    dtype=DType.FP32,
    ranges="any float32",
    accepts=lambda request: is_float(request) and _has_cells(request),
    parameters=_parameters,
    write=_write,
    work=_work,
)
