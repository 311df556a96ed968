"""Activations that stand alone: a table on bytes, vector code on floats."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.carriers.common import (
    FLOAT_ONLY,
    GENERIC,
    INTEGER_BITS,
    Carrier,
    fit_lanes,
    is_float,
    is_integer,
    one_choice,
    stored_shape,
    vec,
)
from tvm_mpq.kernels.carriers.float_activation import FloatActivation
from tvm_mpq.kernels.carriers.lookup import VBMI, lookup_all
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Script
from tvm_mpq.numerics import activations, constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import ActivationWorkload

_FLOAT_LANES = 16


def _workload(request: Request) -> ActivationWorkload:
    assert isinstance(request.workload, ActivationWorkload)
    return request.workload


def _build_table(request: Request, knobs: Knobs, vbmi: bool) -> Script:
    shape = stored_shape(_workload(request).shape, False)
    code = Carrier(request, [("x", shape, "uint8"), ("table", (256,), "uint8"), ("out", shape, "uint8")])
    lookup_all(code, math.prod(shape), vbmi)
    return code.build()


def _build_float(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    code = Carrier(request, [("x", work.shape, "float32"), ("out", work.shape, "float32")])
    total = math.prod(work.shape)
    activation = FloatActivation(code, work.activation, fit_lanes(total, _FLOAT_LANES))
    with code.flat(total, _FLOAT_LANES) as lanes:
        activation.store("out", "i", vec("x", "i", lanes))
    return code.build()


def _table(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    if operands.output is None:
        raise InvalidValueError("an integer activation needs an output TensorQuant (got none)")
    return [activations.table(_workload(request).activation, constants.integer_input(operands, 0), operands.output)]


for _isa, _features in (("generic", GENERIC), ("avx512vbmi", VBMI)):
    register(
        Family(
            name=f"qu8_table_activation__{_isa}",
            workload_type=ActivationWorkload,
            isa_features=_features,
            weight_bits=INTEGER_BITS,
            activation_bits=INTEGER_BITS,
            operand_ranges="input 0..255",
            accepts=is_integer,
            knob_space=one_choice,
            build=partial(_build_table, vbmi=_features == VBMI),
            constants=_table,
            rank=len(_features),
        )
    )
register(
    Family(
        name="f32_activation__generic",
        workload_type=ActivationWorkload,
        isa_features=GENERIC,
        weight_bits=FLOAT_ONLY,
        activation_bits=FLOAT_ONLY,
        operand_ranges="any float32",
        accepts=is_float,
        knob_space=one_choice,
        build=_build_float,
        constants=lambda request, knobs, operands: [],
    )
)
