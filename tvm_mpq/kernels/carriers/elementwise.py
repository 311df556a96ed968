"""add and multiply.

Bytes: add is fma(float32(a - za), ma, float32(b - zb) * mb), multiply is float32((a - za) * (b - zb)) * m; the product
of two centered bytes is below 2^24, hence exact in float32 too. Then rounding, and a table for activations that are not
clamps. Floats: the operation and the activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from tvm_mpq.kernels.carriers.common import (
    FLOAT_ONLY,
    GENERIC,
    INTEGER_BITS,
    Carrier,
    centered,
    fit_lanes,
    float_row,
    int_row,
    is_float,
    is_integer,
    one_choice,
    rounded,
    splat,
    stored_shape,
    tables,
    vec,
)
from tvm_mpq.kernels.carriers.float_activation import FloatActivation
from tvm_mpq.kernels.carriers.lookup import VBMI, VBMI_LANES, load_table, lookup, lookup_scalars
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Params, Script
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.requantize import multiplier
from tvm_mpq.schema import AddWorkload, MultiplyWorkload

_Pairwise = AddWorkload | MultiplyWorkload
_LANES = 32
_FLOAT_LANES = 16


def _workload(request: Request) -> _Pairwise:
    assert isinstance(request.workload, AddWorkload | MultiplyWorkload)
    return request.workload


def _second_shape(work: _Pairwise) -> tuple[int, ...]:
    if isinstance(work, MultiplyWorkload) and work.broadcast:
        return (work.shape[0], *[1] * (len(work.shape) - 2), work.shape[-1])
    return work.shape


def _integer(request: Request, knobs: Knobs, vbmi: bool) -> Script:
    work = _workload(request)
    shape, second = stored_shape(work.shape, False), stored_shape(_second_shape(work), False)
    params: Params = [("a", shape, "uint8"), ("b", second, "uint8"), ("q", (8,), "int32"), ("f", (4,), "float32")]
    has_table = not is_clamp(work.activation)
    if has_table:
        params.append(("table", (256,), "uint8"))
    code = Carrier(request, [*params, ("out", shape, "uint8")])
    for i, name in enumerate(("z_a", "z_b", "z_out", "lo", "hi")):
        code.let(name, f"q[{i}]")
    code.let("f_0", "f[0]")
    code.let("f_1", "f[1]")
    code.rounding("z_out", "lo", "hi")

    def body(a: str, b: str, lanes: int) -> None:
        first, other = centered(vec("a", a, lanes), "z_a", lanes), centered(vec("b", b, lanes), "z_b", lanes)
        if isinstance(work, AddWorkload):
            y = f"T.fma({first}, {splat('f_0', lanes)}, {other} * {splat('f_1', lanes)})"
        else:
            y = f"{first} * {other} * {splat('f_0', lanes)}"
        result = rounded(y, lanes)
        if vbmi:
            result = lookup(code.let("before", result))
        code.line(f"{vec('out', a, lanes)} = {result}")

    if vbmi:
        load_table(code)
    _loops(code, shape, second, VBMI_LANES if vbmi else _LANES, body)
    if has_table and not vbmi:
        lookup_scalars(code, math.prod(shape), "out")
    return code.build()


def _float(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    shape, second = work.shape, _second_shape(work)
    code = Carrier(request, [("a", shape, "float32"), ("b", second, "float32"), ("out", shape, "float32")])
    lanes = fit_lanes(shape[-1] if shape != second else math.prod(shape), _FLOAT_LANES)
    activation = FloatActivation(code, work.activation, lanes)
    sign = "+" if isinstance(work, AddWorkload) else "*"

    def body(a: str, b: str, lanes: int) -> None:
        activation.store("out", a, f"{vec('a', a, lanes)} {sign} {vec('b', b, lanes)}")

    _loops(code, shape, second, lanes, body)
    return code.build()


def _loops(
    code: Carrier, shape: tuple[int, ...], second: tuple[int, ...], lanes: int, body: Callable[[str, str, int], None]
) -> None:
    """Call body(index into a, index into b, lanes) inside loops over all vectors."""
    if shape == second:
        with code.flat(math.prod(shape), lanes) as width:
            body("i", "i", width)
        return
    batch, channels = shape[0], shape[-1]
    positions = math.prod(shape[1:-1])
    with code.rows("r", batch * positions, math.prod(shape)), code.span("c", channels, lanes) as width:
        body(f"r * {channels} + c", "c" if batch == 1 else f"r // {positions} * {channels} + c", width)


def _wants_table_registers(request: Request) -> bool:
    """A table at the end, and rows of at least one full vector of bytes."""
    work = _workload(request)
    if not is_integer(request) or is_clamp(work.activation):
        return False
    shape = stored_shape(work.shape, False)
    return (math.prod(shape) if _second_shape(work) == work.shape else shape[-1]) >= VBMI_LANES


def _add_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    end = constants.finish(_workload(request).activation, request.out_bits, operands)
    a, b = (constants.integer_input(operands, i) for i in (0, 1))
    q = int_row(a.zero_point, b.zero_point, end.zero_point, end.lo, end.hi)
    factors = (multiplier(t.scale, output=end.scale) for t in (a, b))
    return [q, float_row(*factors), *tables(end)]


def _multiply_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    end = constants.finish(_workload(request).activation, request.out_bits, operands)
    a, b = (constants.integer_input(operands, i) for i in (0, 1))
    q = int_row(a.zero_point, b.zero_point, end.zero_point, end.lo, end.hi)
    return [q, float_row(multiplier(a.scale, b.scale, output=end.scale)), *tables(end)]


for _name, _type, _constants in (
    ("add", AddWorkload, _add_constants),
    ("multiply", MultiplyWorkload, _multiply_constants),
):
    for _isa, _features, _accepts in (("generic", GENERIC, is_integer), ("avx512vbmi", VBMI, _wants_table_registers)):
        register(
            Family(
                name=f"qu8_qu8_f32_{_name}__{_isa}",
                workload_type=_type,
                isa_features=_features,
                weight_bits=INTEGER_BITS,
                activation_bits=INTEGER_BITS,
                operand_ranges="both inputs and zero points 0..255",
                accepts=_accepts,
                knob_space=one_choice,
                build=partial(_integer, vbmi=_features == VBMI),
                constants=_constants,
                rank=len(_features),
            )
        )
    register(
        Family(
            name=f"f32_f32_{_name}__generic",
            workload_type=_type,
            isa_features=GENERIC,
            weight_bits=FLOAT_ONLY,
            activation_bits=FLOAT_ONLY,
            operand_ranges="any float32",
            accepts=is_float,
            knob_space=one_choice,
            build=_float,
            constants=lambda request, knobs, operands: [],
        )
    )
