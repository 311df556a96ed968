"""Rows of activations that stand alone: a table on bytes, vector code on floats."""

from __future__ import annotations

from functools import partial

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit import Function, Parameter
from tvm_mpq.kernels.emit.activations import activate
from tvm_mpq.kernels.families.weightless import (
    add_row,
    dtype_of,
    is_float,
    is_integer,
    stored_shape,
)
from tvm_mpq.kernels.features import GENERIC, VBMI
from tvm_mpq.kernels.frames.elementwise import flat, look_up_all
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics import activations, constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import ActivationWorkload, DType

_FLOAT_LANES = 16


def _workload(request: Request) -> ActivationWorkload:
    assert isinstance(request.workload, ActivationWorkload)
    return request.workload


def _parameters(request: Request) -> Parameters:
    shape, dtype = stored_shape(_workload(request).shape, is_float(request)), dtype_of(request)
    table = () if is_float(request) else (Parameter("table", (256,), "uint8"),)
    return Parameters((Parameter("x", shape, dtype),), table, Parameter("out", shape, dtype))


def _write_bytes(request: Request, f: Function, wide: bool) -> None:
    look_up_all(request.threads, f.flat("table"), f.flat("x"), f.flat("out"), wide)


def _write_floats(request: Request, f: Function) -> None:
    x, out = f.flat("x"), f.flat("out")
    with flat(request.threads, x.size, _FLOAT_LANES) as (i, lanes):
        out.store(i, activate(x.load(i, lanes), _workload(request).activation))


def _table(request: Request, operands: Operands) -> list[np.ndarray]:
    if operands.output is None:
        raise InvalidValueError("an integer activation needs an output TensorQuant (got none)")
    return [activations.table(_workload(request).activation, constants.integer_input(operands, 0), operands.output)]


for _isa, _features in (("generic", GENERIC), ("avx512vbmi", VBMI)):
    add_row(
        f"qu8_table_activation__{_isa}",
        ActivationWorkload,
        features=_features,
        ranges="input 0..255",
        accepts=is_integer,
        parameters=_parameters,
        write=partial(_write_bytes, wide=_features == VBMI),
        constants=_table,
    )
add_row(
    "f32_activation__generic",
    ActivationWorkload,
    dtype=DType.FP32,
    ranges="any float32",
    accepts=is_float,
    parameters=_parameters,
    write=_write_floats,
)
