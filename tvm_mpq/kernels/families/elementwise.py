"""Rows of add and multiply.

Bytes: add is fma(float32(a - za), ma, float32(b - zb) * mb), multiply is float32((a - za) * (b - zb)) * m; the product
of two centered bytes is below 2^24, hence exact in float32 too. Then rounding, and a table for activations that are not
clamps. Floats: the operation and the activation.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tvm_mpq.kernels.emit import Function, Parameter, fma, let
from tvm_mpq.kernels.emit.activations import activate
from tvm_mpq.kernels.emit.quantize import ByteRange, ByteTable, centered
from tvm_mpq.kernels.families.weightless import (
    add_row,
    dtype_of,
    float_row,
    int_row,
    is_float,
    is_integer,
    stored_shape,
)
from tvm_mpq.kernels.features import GENERIC, VBMI
from tvm_mpq.kernels.frames.elementwise import look_up_all, pairs
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.requantize import multiplier
from tvm_mpq.schema import AddWorkload, DType, MultiplyWorkload

_LANES = 32
_FLOAT_LANES = 16


def _workload(request: Request) -> AddWorkload | MultiplyWorkload:
    assert isinstance(request.workload, AddWorkload | MultiplyWorkload)
    return request.workload


def _shapes(request: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stored, of the first input and of the second."""
    work = _workload(request)
    second = work.shape
    if isinstance(work, MultiplyWorkload) and work.broadcast:
        second = (work.shape[0], *[1] * (len(work.shape) - 2), work.shape[-1])
    return stored_shape(work.shape, is_float(request)), stored_shape(second, is_float(request))


def _parameters(request: Request) -> Parameters:
    shape, second = _shapes(request)
    dtype, ranges = dtype_of(request), []
    if not is_float(request):
        ranges = [Parameter("q", (8,), "int32"), Parameter("f", (4,), "float32")]
        if not is_clamp(_workload(request).activation):
            ranges.append(Parameter("table", (256,), "uint8"))
    return Parameters(
        (Parameter("a", shape, dtype), Parameter("b", second, dtype)), tuple(ranges), Parameter("out", shape, dtype)
    )


def _write_bytes(request: Request, f: Function, wide: bool) -> None:
    work = _workload(request)
    a, b, out, q, factors = (f.flat(name) for name in ("a", "b", "out", "q", "f"))
    zero_a, zero_b = let(q[0], "zero_a"), let(q[1], "zero_b")
    factor, factor_b = let(factors[0], "factor"), let(factors[1], "factor_b")
    to_bytes = ByteRange(q[2], q[3], q[4])
    table = ByteTable(f.flat("table")) if wide else None
    with pairs(request.threads, *_shapes(request), ByteTable.lanes if wide else _LANES) as (i, j, lanes):
        first, second = centered(a.load(i, lanes), zero_a), centered(b.load(j, lanes), zero_b)
        if isinstance(work, AddWorkload):
            y = fma(first, factor.broadcast(lanes), second * factor_b)
        else:
            y = first * second * factor
        value = to_bytes.quantize(y)
        out.store(i, table.look_up(let(value, "index")) if table else value)
    if not is_clamp(work.activation) and not wide:
        look_up_all(request.threads, f.flat("table"), out, out, wide=False)


def _write_floats(request: Request, f: Function) -> None:
    work = _workload(request)
    a, b, out = f.flat("a"), f.flat("b"), f.flat("out")
    with pairs(request.threads, *_shapes(request), _FLOAT_LANES) as (i, j, lanes):
        first, second = a.load(i, lanes), b.load(j, lanes)
        y = first + second if isinstance(work, AddWorkload) else first * second
        out.store(i, activate(y, work.activation))


def _fills_registers(request: Request) -> bool:
    """A table at the end, and rows of at least one full vector of bytes."""
    if not is_integer(request) or is_clamp(_workload(request).activation):
        return False
    shape, second = _shapes(request)
    return (math.prod(shape) if shape == second else shape[-1]) >= ByteTable.lanes


def _constants(request: Request, operands: Operands) -> list[np.ndarray]:
    end = constants.finish(_workload(request).activation, request.out_bits, operands)
    a, b = (constants.integer_input(operands, i) for i in (0, 1))
    q = int_row(a.zero_point, b.zero_point, end.zero_point, end.lo, end.hi)
    if isinstance(request.workload, AddWorkload):
        factors = float_row(multiplier(a.scale, output=end.scale), multiplier(b.scale, output=end.scale))
    else:
        factors = float_row(multiplier(a.scale, b.scale, output=end.scale))
    return [q, factors] if end.table is None else [q, factors, end.table]


for _name, _type in (("add", AddWorkload), ("multiply", MultiplyWorkload)):
    for _isa, _features, _accepts in (("generic", GENERIC, is_integer), ("avx512vbmi", VBMI, _fills_registers)):
        add_row(
            f"qu8_qu8_f32_{_name}__{_isa}",
            _type,
            features=_features,
            ranges="both inputs and zero points 0..255",
            accepts=_accepts,
            parameters=_parameters,
            write=partial(_write_bytes, wide=_features == VBMI),
            constants=_constants,
        )
    add_row(
        f"f32_f32_{_name}__generic",
        _type,
        dtype=DType.FP32,
        ranges="any float32",
        accepts=is_float,
        parameters=_parameters,
        write=_write_floats,
    )
