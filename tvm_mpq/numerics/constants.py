"""The integers and factors of an operator, before any kernel packs them.

Kernels and the reference take their numbers from here, so both agree on every rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import activations, affine
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.conv import fold_bias, least_scale
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.requantize import multiplier
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, Pool2dWorkload, TensorQuant


@dataclass(frozen=True)
class Finish:
    """How an operator leaves its float32 value y in units of `scale`.

    Integer output: clamp(rint(y) + zero_point, lo, hi), then `table` if there is one. Float output (scale 1.0, zero
    point 0): clamp to [float_lo, float_hi].
    """

    scale: float
    zero_point: int
    lo: int
    hi: int
    float_lo: float
    float_hi: float
    table: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class ConvConstants:
    """weight int8[O, KH, KW, I], bias int32[O] (zero point not folded in), multiplier float32[O], residual factor."""

    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: FloatArray
    residual_multiplier: np.float32  # 0.0 without a residual
    input_zero_point: int
    residual_zero_point: int
    finish: Finish


def integer_input(operands: Operands, index: int) -> TensorQuant:
    """The quantization of one input. Raises InvalidValueError when that input is float or missing."""
    tq = operands.inputs[index] if index < len(operands.inputs) else None
    if tq is None:
        raise InvalidValueError(f"input {index} of an integer operator needs a TensorQuant (got none)")
    return tq


def finish(activation: str, out_bits: int, operands: Operands) -> Finish:
    """The last step of an integer operator. Raises InvalidValueError when a range is missing."""
    clamp = activations.is_clamp(activation)
    if out_bits == FLOAT_BITS:
        if not clamp:
            raise InvalidValueError(f"integer operators emit float only after none, relu or clip (got {activation!r})")
        low, high = activations.clamp_bounds(activation)
        return Finish(1.0, 0, 0, 0, low, high, None)
    out = operands.output
    if out is None:
        raise InvalidValueError(f"an output of {out_bits} bits needs a TensorQuant (got none)")
    table = None
    if not clamp:
        pre = operands.pre_activation
        if pre is None:
            raise InvalidValueError(f"activation {activation!r} needs the range before it, pre_activation (got none)")
        table, out = activations.table(activation, pre, out), pre
    lo, hi = affine.bounds_for_activation(activation, out)
    return Finish(out.scale, out.zero_point, lo, hi, -np.inf, np.inf, table)


def conv_constants(workload: Conv2dWorkload, weight_bits: int, out_bits: int, operands: Operands) -> ConvConstants:
    """Quantized weights, bias and factors of an integer convolution.

    Raises
    ------
    InvalidValueError
        If a weight or range is missing, or the codes that are given do not fit the operator.
    """
    if operands.weight is None:
        raise InvalidValueError("conv2d needs a weight (got none)")
    x = integer_input(operands, 0)
    end = finish(workload.activation, out_bits, operands)
    bias = _bias(operands)
    bits = weight_bits if operands.weight_bits is None else operands.weight_bits
    weight, scale = _integer_weight(operands, bits, least_scale(bias, x.scale))
    residual = integer_input(operands, 1) if workload.residual else None
    return ConvConstants(
        weight=weight,
        bias=fold_bias(bias, x.scale, scale),
        multiplier=multiplier(x.scale, scale, output=end.scale),
        residual_multiplier=np.float32(0 if residual is None else multiplier(residual.scale, output=end.scale)),
        input_zero_point=x.zero_point,
        residual_zero_point=0 if residual is None else residual.zero_point,
        finish=end,
    )


def _bias(operands: Operands) -> FloatArray:
    """float32[O]: the one that came with the codes, the operator's own, or zeros."""
    assert operands.weight is not None
    if operands.codes is not None and operands.codes.bias is not None:
        return operands.codes.bias
    return np.zeros(len(operands.weight), np.float32) if operands.bias is None else operands.bias


def _integer_weight(operands: Operands, bits: int, least: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """The codes that are given, or the weight rounded to nearest; int8[O, KH, KW, I] and float32[O]."""
    assert operands.weight is not None
    given = operands.codes
    if given is None:
        return affine.quantize_weight(operands.weight, bits, least)
    if given.bits != bits or given.codes.shape != operands.weight.shape:
        raise InvalidValueError(
            f"codes must be of {bits} bits and shape {operands.weight.shape} (got {given.bits} and {given.codes.shape})"
        )
    low = np.flatnonzero(given.scales < least)
    if low.size:
        raise InvalidValueError(
            f"the bias of output channel {low[0]} needs a weight scale of at least {least[low[0]]:g} "
            f"(got {given.scales[low[0]]:g})"
        )
    return given.codes, given.scales


def pool_counts(workload: Pool2dWorkload) -> npt.NDArray[np.int32]:
    """int32[OH, OW]: how many cells an average at each position divides by."""
    top, left, bottom, right = workload.padding if workload.mode == "avg" else (0, 0, 0, 0)
    sizes = (workload.in_height, workload.in_width)
    counts = []
    for axis, (before, after, outs) in enumerate(
        ((top, bottom, workload.out_height), (left, right, workload.out_width))
    ):
        start = np.arange(outs) * workload.stride[axis] - workload.padding[axis]
        stop = np.minimum(start + workload.kernel[axis], sizes[axis] + after)
        counts.append(np.maximum(stop - np.maximum(start, -before), 0))
    return np.asarray(np.multiply.outer(counts[0], counts[1]).astype(np.int32))


def pool_multipliers(workload: Pool2dWorkload, operands: Operands) -> FloatArray:
    """float32[KH * KW + 1]: entry n is input scale / (output scale * n), entry 0 is 0. Raises InvalidValueError."""
    x = integer_input(operands, 0)
    end = finish("none", 8, operands)
    cells = np.arange(1, workload.kernel[0] * workload.kernel[1] + 1, dtype=np.float64)
    return np.concatenate([np.zeros(1, np.float32), (x.scale / (end.scale * cells)).astype(np.float32)])
