"""Concatenation along the channels: every part is rescaled to the output's range on the way."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.carriers.common import (
    FLOAT_ONLY,
    GENERIC,
    INTEGER_BITS,
    Carrier,
    centered,
    float_row,
    int_row,
    is_float,
    is_integer,
    one_choice,
    rounded,
    splat,
    vec,
)
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Params, Script
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.requantize import multiplier
from tvm_mpq.schema import FLOAT_BITS, ConcatWorkload, padded_channels

_BYTE_LANES, _FLOAT_LANES = 32, 16


def _workload(request: Request) -> ConcatWorkload:
    assert isinstance(request.workload, ConcatWorkload)
    return request.workload


def _build(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    is_bytes = request.out_bits != FLOAT_BITS
    dtype = "uint8" if is_bytes else "float32"
    parts, total = len(work.channels), sum(work.channels)
    stored = [padded_channels(c) if is_bytes else c for c in (*work.channels, total)]
    params: Params = [(f"x_{i}", (work.rows, stored[i]), dtype) for i in range(parts)]
    if is_bytes:
        params += [("q", (parts + 3,), "int32"), ("f", (parts,), "float32")]
    code = Carrier(request, [*params, ("out", (work.rows, stored[-1]), dtype)])
    if is_bytes:
        code.rounding(f"q[{parts}]", f"q[{parts + 1}]", f"q[{parts + 2}]")
        for i in range(parts):
            code.let(f"z_{i}", f"q[{i}]")
            code.let(f"f_{i}", f"f[{i}]")
    with code.rows("r", work.rows, work.rows * total):
        start = 0
        for i, channels in enumerate(work.channels):
            with code.span(f"c{i}", channels, _BYTE_LANES if is_bytes else _FLOAT_LANES) as lanes:
                value = vec(f"x_{i}", f"r * {stored[i]} + c{i}", lanes)
                if is_bytes:
                    value = rounded(f"{centered(value, f'z_{i}', lanes)} * {splat(f'f_{i}', lanes)}", lanes)
                code.line(f"{vec('out', f'r * {stored[-1]} + {start} + c{i}', lanes)} = {value}")
            start += channels
        code.fill("out", f"r * {stored[-1]} + {total}", stored[-1] - total, "z_byte", 16)
    return code.build()


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    parts = len(_workload(request).channels)
    end = constants.finish("none", request.out_bits, operands)
    inputs = [constants.integer_input(operands, i) for i in range(parts)]
    q = int_row(*(t.zero_point for t in inputs), end.zero_point, end.lo, end.hi, size=parts + 3)
    return [q, float_row(*(multiplier(t.scale, output=end.scale) for t in inputs), size=parts)]


register(
    Family(
        name="qu8_f32_concat__generic",
        workload_type=ConcatWorkload,
        isa_features=GENERIC,
        weight_bits=INTEGER_BITS,
        activation_bits=INTEGER_BITS,
        operand_ranges="inputs and zero points 0..255",
        accepts=is_integer,
        knob_space=one_choice,
        build=_build,
        constants=_constants,
    )
)
register(
    Family(
        name="f32_concat__generic",
        workload_type=ConcatWorkload,
        isa_features=GENERIC,
        weight_bits=FLOAT_ONLY,
        activation_bits=FLOAT_ONLY,
        operand_ranges="any float32",
        accepts=is_float,
        knob_space=one_choice,
        build=_build,
        constants=lambda request, knobs, operands: [],
    )
)
