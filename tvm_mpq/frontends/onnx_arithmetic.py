"""ONNX operators whose attributes or corner cases TVM's importer leaves out, as plain Relax operators.

A converter takes (inputs, attributes) and answers None when TVM's own converter does it right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError


def dtype_of(expr: Any) -> str:
    """`float32`, ..."""
    return str(expr.ty.dtype)


def is_inf(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """TVM does not look at which infinity is asked for."""
    positive, negative = attrs.get("detect_positive", 1), attrs.get("detect_negative", 1)
    if positive and negative:
        return None
    if not positive and not negative:
        return relax.op.zeros_like(inputs[0], "bool")
    bound = relax.const(np.float32(np.inf if positive else -np.inf))
    return relax.op.equal(inputs[0], bound)


def mod(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Of floats with the divisor's sign, also where that is infinite; TVM computes a - floor(a / b) b, which is NaN."""
    if attrs.get("fmod", 0) or not dtype_of(inputs[0]).startswith("float"):
        return None
    dividend, divisor = inputs
    rest = relax.op.mod(dividend, divisor)
    zero = relax.const(np.float32(0))
    opposite = relax.op.less(relax.op.multiply(relax.op.sign(rest), relax.op.sign(divisor)), zero)
    return relax.op.where(opposite, relax.op.add(rest, divisor), rest)


def power(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """The exponent may be of another type; the result has the base's."""
    base, exponent = inputs
    wanted, other = dtype_of(base), dtype_of(exponent)
    if wanted == other and wanted.startswith("float"):
        return None
    raised = relax.op.power(*(x if dtype_of(x) == "float32" else relax.op.astype(x, "float32") for x in inputs))
    return raised if wanted == "float32" else relax.op.astype(relax.op.round(raised), wanted)


def space_to_depth(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """With the channel first (CRD); TVM knows the order of blocks first only."""
    if attrs.get("mode", b"DCR") == b"DCR":
        return None
    n, c, h, w = (int(d) for d in inputs[0].ty.shape)
    b = int(attrs["blocksize"])
    blocks = relax.op.reshape(inputs[0], (n, c, h // b, b, w // b, b))
    return relax.op.reshape(relax.op.permute_dims(blocks, [0, 1, 3, 5, 2, 4]), (n, c * b * b, h // b, w // b))


def lp_normalization(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """x / |x| along an axis, 0 where all of it is 0; TVM lacks the operator."""
    data, axis = inputs[0], int(attrs.get("axis", -1))
    if int(attrs.get("p", 2)) == 1:
        length = relax.op.sum(relax.op.abs(data), axis, keepdims=True)
    else:
        length = relax.op.sqrt(relax.op.sum(relax.op.multiply(data, data), axis, keepdims=True))
    nothing = relax.op.equal(length, relax.const(np.float32(0)))
    return relax.op.divide(data, relax.op.where(nothing, relax.const(np.float32(1)), length))


def dropout(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Nothing is dropped: a network is imported for inference, and its mask is true throughout."""
    if len(inputs) > 2 and inputs[2] is not None:
        training = inputs[2]
        if not isinstance(training, tvm.ir.GenericConst) or bool(training.value.numpy()):
            raise UnsupportedModelError("dropout in training mode is not supported; export the model for inference")
    if attrs["tvm_custom"]["num_outputs"] == 1:
        return inputs[0]
    shape = [int(d) for d in inputs[0].ty.shape]
    return relax.Tuple([inputs[0], relax.const(np.ones(shape, bool))])


def batch_normalization(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Refused in training mode, whose statistics TVM computes otherwise than ONNX."""
    if attrs.get("training_mode", 0):
        raise UnsupportedModelError("training mode is not supported; export the model for inference")


def compress(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """By a constant condition: a look-up; by another one the size of the result would depend on the data."""
    condition = inputs[1]
    if not isinstance(condition, tvm.ir.GenericConst):
        raise UnsupportedModelError("the size of its result depends on the data; give a constant condition")
    places = relax.const(np.flatnonzero(condition.value.numpy()).astype(np.int64))
    if "axis" in attrs:
        return relax.op.take(inputs[0], places, int(attrs["axis"]) % len(inputs[0].ty.shape), mode="clip")
    return relax.op.take(relax.op.reshape(inputs[0], [-1]), places, 0, mode="clip")


def reverse_sequence(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """The first elements of each sequence in reverse, as many as its constant length says; TVM lacks the operator."""
    data, lengths = inputs
    if not isinstance(lengths, tvm.ir.GenericConst):
        raise UnsupportedModelError("the lengths of its sequences must be constant (got a computed tensor)")
    batch, time = int(attrs.get("batch_axis", 1)), int(attrs.get("time_axis", 0))
    shape = [int(d) for d in data.ty.shape]
    steps = np.arange(shape[time])
    places = np.stack([np.where(steps < n, n - 1 - steps, steps) for n in lengths.value.numpy()])
    first = [batch, time, *(a for a in range(len(shape)) if a not in (batch, time))]
    sizes = [shape[a] for a in first]
    flat = relax.op.reshape(relax.op.permute_dims(data, first), [sizes[0] * sizes[1], *sizes[2:]])
    at = relax.const((np.arange(sizes[0])[:, None] * sizes[1] + places).reshape(-1).astype(np.int64))
    taken = relax.op.reshape(relax.op.take(flat, at, 0, mode="clip"), sizes)
    return relax.op.permute_dims(taken, [first.index(a) for a in range(len(shape))])


def roi_align(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Refused in mode `max`, which ONNX defines by weighted samples; TVM and ONNX Runtime take the largest sample."""
    if attrs.get("mode", b"avg") == b"max":
        raise UnsupportedModelError("mode 'max' is not supported; use 'avg'")


def data_dependent(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Refused: a compiled network has one size of each tensor."""
    raise UnsupportedModelError("the size of its result depends on the data; end the network before it")
