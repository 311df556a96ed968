"""The definition of every workload in NumPy: `evaluate` computes what a kernel must compute.

Arrays are logical: channels-last, channels not padded; uint8 for integer tensors, float32 for float ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import activations, affine, attention, bfloat16, constants, float16
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.numerics.constants import Finish
from tvm_mpq.numerics.conv import float_conv2d, integer_conv2d
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.pooling import average_pool, max_pool
from tvm_mpq.numerics.recurrent import evaluate_recurrent, weight_and_vectors
from tvm_mpq.numerics.recurrent_bytes import evaluate_recurrent_bytes
from tvm_mpq.numerics.requantize import multiplier, round_clamp, scale_accumulator
from tvm_mpq.schema import (
    FLOAT_BITS,
    W8A8,
    ActivationWorkload,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    DType,
    MultiplyWorkload,
    Pool2dWorkload,
    Precision,
    RecurrentWorkload,
    Workload,
    padded_channels,
)

Inputs = Sequence[Array]


def evaluate(workload: Workload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs) -> Array:
    """The output of one operator, exactly as a kernel must give it.

    Parameters
    ----------
    workload : Workload
        Any kind but `float`.
    precision : Precision
        Integer, or a float (then operands hold no ranges, except those of a convert). bf16, fp16: convolutions only.
    out_bits : int
        32 gives float32, fewer give uint8.
    operands : Operands
    inputs : sequence of uint8[...] or float32[...]
        Data, then residual or second operand, logical channels. A convert with channels_first takes its float input as
        [N, C, H, W].

    Returns
    -------
    y : uint8[...] or float32[...]
        Logical channels.

    Raises
    ------
    InvalidValueError
        If a range is missing, an input has the wrong dtype, or an operator has no such precision.
    """
    if isinstance(workload, ConvertWorkload):
        return _convert(workload, operands, inputs[0])
    is_float = precision.is_float
    wanted = np.float32 if workload.is_float_at(precision) else np.uint8
    for i, x in enumerate(inputs):
        if x.dtype != wanted:
            raise InvalidValueError(f"input {i} at {precision} must be {np.dtype(wanted)} (got {x.dtype})")
    for kind, (as_float, as_integer) in _RULES.items():
        if isinstance(workload, kind):
            if is_float:
                rule = _NARROW.get(precision.dtype, as_float)
                return np.asarray(rule(workload, operands, inputs), dtype=np.float32)
            return np.asarray(as_integer(workload, precision, out_bits, operands, inputs))
    raise InvalidValueError(f"the reference covers {[k.kind for k in _RULES]} and convert (got {workload.kind!r})")


def pad_channels(x: npt.NDArray[np.uint8], fill: int = 0) -> npt.NDArray[np.uint8]:
    """The stored form of an integer tensor: last axis padded to `schema.padded_channels`, new cells `fill`."""
    extra = padded_channels(x.shape[-1]) - x.shape[-1]
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, extra)], constant_values=fill)


def unpad(x: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """The logical channels of a stored integer tensor."""
    return np.ascontiguousarray(x[..., :channels])


def _end(y: Array, end: Finish, out_bits: int) -> Array:
    if out_bits == FLOAT_BITS:
        return np.asarray(np.fmin(np.fmax(y, np.float32(end.float_lo)), np.float32(end.float_hi)))
    q = round_clamp(y, end.zero_point, end.lo, end.hi)
    return q if end.table is None else np.asarray(end.table[q])


def _centered(x: Array, operands: Operands, index: int) -> npt.NDArray[np.int32]:
    return np.asarray(x.astype(np.int32) - constants.integer_input(operands, index).zero_point)


def _conv_float(w: Conv2dWorkload, operands: Operands, inputs: Inputs) -> Array:
    if operands.weight is None:
        raise InvalidValueError("conv2d needs a weight (got none)")
    return _finished(w, float_conv2d(inputs[0], operands.weight, operands.bias, w), inputs)


def _finished(w: Conv2dWorkload, y: Array, inputs: Inputs) -> Array:
    return activations.apply(w.activation, y + inputs[1] if w.residual else y)


def _conv_bfloat16(w: Workload, operands: Operands, inputs: Inputs) -> Array:
    if not isinstance(w, Conv2dWorkload) or operands.weight is None:
        raise InvalidValueError(f"bf16 is for convolutions with a weight (got {w.key})")
    data, *residual = inputs
    rounded = replace(operands, weight=bfloat16.round_to_bfloat16(operands.weight))
    return _conv_float(w, rounded, [bfloat16.round_to_bfloat16(data), *residual])


def _conv_float16(w: Workload, operands: Operands, inputs: Inputs) -> Array:
    if not isinstance(w, Conv2dWorkload) or operands.weight is None or w.input_dilation != (1, 1):
        raise InvalidValueError(f"fp16 is for convolutions with a weight and without input dilation (got {w.key})")
    return _finished(w, float16.conv_of_halves(inputs[0], operands.weight, operands.bias, w), inputs)


def _conv_integer(w: Conv2dWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs) -> Array:
    c = constants.conv_constants(w, precision.weight_bits, out_bits, operands)
    acc = integer_conv2d(inputs[0], c.input_zero_point, c.weight, c.bias, w)
    residual = _centered(inputs[1], operands, 1) if w.residual else None
    y = scale_accumulator(acc, c.multiplier, residual, np.asarray(c.residual_multiplier))
    return _end(y, c.finish, out_bits)


def _pool_float(w: Pool2dWorkload, operands: Operands, inputs: Inputs) -> Array:
    if w.mode == "max":
        return max_pool(inputs[0], w)
    sums = average_pool(inputs[0].astype(np.float64), w)
    return np.asarray(sums / np.maximum(constants.pool_counts(w), 1)[None, :, :, None])


def _pool_integer(w: Pool2dWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs) -> Array:
    if w.mode == "max":
        return max_pool(inputs[0], w)
    sums = average_pool(_centered(inputs[0], operands, 0), w)
    factors = constants.pool_multipliers(w, operands)[constants.pool_counts(w)][None, :, :, None]
    return _end(scale_accumulator(sums, factors), constants.finish("none", out_bits, operands), out_bits)


def _add_float(w: AddWorkload, operands: Operands, inputs: Inputs) -> Array:
    return activations.apply(w.activation, inputs[0] + inputs[1])


def _add_integer(w: AddWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs) -> Array:
    end = constants.finish(w.activation, out_bits, operands)
    a, b = (constants.integer_input(operands, i) for i in (0, 1))
    y = scale_accumulator(
        _centered(inputs[0], operands, 0),
        multiplier(a.scale, output=end.scale),
        _centered(inputs[1], operands, 1),
        multiplier(b.scale, output=end.scale),
    )
    return _end(y, end, out_bits)


def _multiply_float(w: MultiplyWorkload, operands: Operands, inputs: Inputs) -> Array:
    return activations.apply(w.activation, inputs[0] * inputs[1])


def _multiply_integer(
    w: MultiplyWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs
) -> Array:
    end = constants.finish(w.activation, out_bits, operands)
    a, b = (constants.integer_input(operands, i) for i in (0, 1))
    product = _centered(inputs[0], operands, 0) * _centered(inputs[1], operands, 1)
    return _end(scale_accumulator(product, multiplier(a.scale, b.scale, output=end.scale)), end, out_bits)


def _concat_float(w: ConcatWorkload, operands: Operands, inputs: Inputs) -> Array:
    return np.concatenate([x.reshape(w.rows, -1) for x in inputs], axis=1)


def _concat_integer(
    w: ConcatWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs
) -> Array:
    end = constants.finish("none", out_bits, operands)
    parts = []
    for i, x in enumerate(inputs):
        factor = multiplier(constants.integer_input(operands, i).scale, output=end.scale)
        parts.append(_end(scale_accumulator(_centered(x, operands, i), factor), end, out_bits).reshape(w.rows, -1))
    return np.concatenate(parts, axis=1)


def _activation_float(w: ActivationWorkload, operands: Operands, inputs: Inputs) -> Array:
    return activations.apply(w.activation, inputs[0])


def _activation_integer(
    w: ActivationWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs
) -> Array:
    if operands.output is None:
        raise InvalidValueError("an integer activation needs an output TensorQuant (got none)")
    table = activations.table(w.activation, constants.integer_input(operands, 0), operands.output)
    return np.asarray(table[inputs[0]])


def _copy(w: CopyWorkload, x: Array, fill: int) -> Array:
    y = np.full(w.out_shape, fill, dtype=x.dtype)
    source = [b + s * np.arange(n) for b, s, n in zip(w.begin, w.stride, w.count, strict=True)]
    target = tuple(slice(p, p + n) for p, n in zip(w.pad_before, w.count, strict=True))
    y[target] = x[np.ix_(*source)]
    return y


def _copy_float(w: CopyWorkload, operands: Operands, inputs: Inputs) -> Array:
    return _copy(w, inputs[0], 0)


def _copy_integer(w: CopyWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs) -> Array:
    return _copy(w, inputs[0], constants.integer_input(operands, 0).zero_point)


def _attention_float(w: AttentionWorkload, operands: Operands, inputs: Inputs) -> Array:
    return attention.evaluate_float(w, list(inputs))


def _attention_integer(
    w: AttentionWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs
) -> Array:
    end = constants.finish("none", out_bits, operands)
    return _end(attention.integer_result(w, operands, list(inputs), end), end, out_bits)


def _recurrent_float(w: RecurrentWorkload, operands: Operands, inputs: Inputs) -> Array:
    gates, *state = inputs
    return evaluate_recurrent(w, gates, state[0] if state else None, *weight_and_vectors(operands))


def _recurrent_integer(
    w: RecurrentWorkload, precision: Precision, out_bits: int, operands: Operands, inputs: Inputs
) -> Array:
    if precision != W8A8 or out_bits != FLOAT_BITS:
        raise InvalidValueError(f"recurrent layers run at {W8A8} or in fp32, on floats (got {precision} to {out_bits})")
    gates, *state = inputs
    return evaluate_recurrent_bytes(w, gates, state[0] if state else None, operands)


def _convert(w: ConvertWorkload, operands: Operands, x: Array) -> Array:
    if w.from_bits == FLOAT_BITS:
        values = np.moveaxis(x, 1, -1) if w.channels_first else x
        if w.to_bits == FLOAT_BITS:
            return np.ascontiguousarray(values, dtype=np.float32)
        if operands.output is None:
            raise InvalidValueError("quantize needs an output TensorQuant (got none)")
        return affine.quantize(np.ascontiguousarray(values), operands.output)
    source = constants.integer_input(operands, 0)
    if w.to_bits == FLOAT_BITS:
        real = affine.dequantize(x, source)
        return np.ascontiguousarray(np.moveaxis(real, -1, 1)) if w.channels_first else real
    if operands.output is None:
        raise InvalidValueError("requantize needs an output TensorQuant (got none)")
    return np.asarray(activations.requantize_table(source, operands.output)[x])


_RULES: dict[type[Workload], tuple[Callable[..., Array], Callable[..., Array]]] = {
    Conv2dWorkload: (_conv_float, _conv_integer),
    Pool2dWorkload: (_pool_float, _pool_integer),
    AddWorkload: (_add_float, _add_integer),
    MultiplyWorkload: (_multiply_float, _multiply_integer),
    ConcatWorkload: (_concat_float, _concat_integer),
    ActivationWorkload: (_activation_float, _activation_integer),
    CopyWorkload: (_copy_float, _copy_integer),
    AttentionWorkload: (_attention_float, _attention_integer),
    RecurrentWorkload: (_recurrent_float, _recurrent_integer),
}

_NARROW: dict[DType, Callable[..., Array]] = {DType.BF16: _conv_bfloat16, DType.FP16: _conv_float16}
"""Of floats narrower than float32."""
