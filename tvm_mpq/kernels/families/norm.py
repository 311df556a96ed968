"""The rows of layer normalisation, on floats or on bytes, whose arithmetic is float32 in either case."""

from __future__ import annotations

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit import fit_lanes
from tvm_mpq.kernels.families.weightless import quant_rows
from tvm_mpq.kernels.features import GENERIC, native_lanes
from tvm_mpq.kernels.frames.norm import build_norm, norm_of, norm_parameters, norm_work
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, DType, NormWorkload, padded_channels


def _accepts(request: Request) -> bool:
    """Bytes must be stored without padded channels."""
    channels = norm_of(request).channels
    floats = request.precision.is_float and request.out_bits == FLOAT_BITS
    return floats or padded_channels(channels) == channels


def _knob_space(request: Request) -> list[Knobs]:
    lanes = fit_lanes(norm_of(request).channels, native_lanes(request.features))
    return [{"lanes": n} for n in dict.fromkeys((lanes, max(lanes // 2, 1)))]


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    if operands.weight is None or operands.bias is None:
        raise InvalidValueError("a normalisation needs gamma as its weight and beta as its bias")
    found = [] if request.precision.is_float else quant_rows(constants.integer_input(operands, 0))
    found += [np.ascontiguousarray(a, np.float32) for a in (operands.weight, operands.bias)]
    if request.out_bits == FLOAT_BITS:
        return found
    if operands.output is None:
        raise InvalidValueError("a normalisation to integers needs an output TensorQuant (got none)")
    return found + quant_rows(operands.output)


def _row(name: str, dtype: DType, bits: frozenset[int], ranges: str) -> Family:
    return register(
        Family(
            name=name,
            workload_type=NormWorkload,
            isa_features=GENERIC,
            weight_bits=bits,
            activation_bits=bits,
            operand_ranges=ranges,
            accepts=_accepts,
            knob_space=_knob_space,
            build=build_norm,
            constants=_constants,
            dtype=dtype,
            parameters=lambda request, knobs: norm_parameters(request),
            work=norm_work,
        )
    )


FLOATS = _row("f32_layernorm__generic", DType.FP32, frozenset({FLOAT_BITS}), "float32; sums in vectors of partial sums")
BYTES = _row(
    "qu8_f32_layernorm__generic", DType.INT, frozenset(range(1, 9)), "inputs and zero points 0..255; float32 inside"
)
