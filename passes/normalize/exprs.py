"""Small questions to Relax expressions, shared by the passes of Normalize: shape, constant, operator, attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq.numerics.arrays import Array

NHWC_OF_NCHW = (0, 2, 3, 1)
NCHW_OF_NHWC = (0, 3, 1, 2)
NHWC_SUFFIX = "_nhwc"
"""Marks the variable that holds another one's value channels-last."""


def shape_of(expr: relax.Expr) -> tuple[int, ...] | None:
    """The static shape of a tensor; None for tuples, shapes and tensors of unknown extent."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or ty.shape is None:
        return None
    values = ty.shape.values if isinstance(ty.shape, relax.ShapeExpr) else None
    if values is None or not all(isinstance(d, int | tvm.tirx.IntImm) for d in values):
        return None
    return tuple(int(d) for d in values)


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor, or `object` for anything else."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else "object"


def is_float(expr: relax.Expr) -> bool:
    """True for a float32 tensor of static shape."""
    return shape_of(expr) is not None and dtype_of(expr) == "float32"


def op_name(expr: relax.Expr | None) -> str:
    """`relax.nn.relu` and the like; empty for anything that is not a call of a Relax operator."""
    return str(expr.op.name) if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) else ""


def is_constant(expr: relax.Expr) -> bool:
    return isinstance(expr, tvm.ir.GenericConst)


def array_of(expr: relax.Expr) -> Array:
    """The value of a constant."""
    value: Array = expr.value.numpy()
    return value


def number(expr: relax.Expr) -> float | None:
    """The value of a float constant whose elements are all equal, or of an immediate; else None."""
    if isinstance(expr, tvm.tirx.IntImm | tvm.tirx.FloatImm):
        return float(expr.value)
    if not is_constant(expr):
        return None
    array = array_of(expr)
    if array.size == 0 or array.dtype.kind not in "fiu" or not (array == array.flat[0]).all():
        return None
    return float(array.flat[0])


def channel_vector(expr: relax.Expr, rank: int, channels: int) -> npt.NDArray[np.float64] | None:
    """A constant that broadcasts along the last axis only, as float64[channels]; else None."""
    if not is_constant(expr) or dtype_of(expr) != "float32":
        return None
    array = array_of(expr)
    if array.ndim > rank or any(d != 1 for d in array.shape[:-1]) or array.size not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,)).copy()


def const(array: Array) -> relax.Expr:
    """A Relax constant of this array's values and dtype."""
    return relax.const(np.ascontiguousarray(array) if array.ndim else array, str(array.dtype))


def ints(values: Any) -> tuple[int, ...]:
    """Integers of an attribute or of a tuple of immediates."""
    if isinstance(values, relax.Tuple):
        values = values.fields
    return tuple(int(v) for v in values)


def axis_list(axes: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; None means all of them."""
    return tuple(range(rank)) if axes is None else tuple(int(a) % rank for a in axes)


def prod(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def slice_range(begin: int, end: int, stride: int, extent: int) -> tuple[int, int]:
    """First element and number of elements that a slice of positive stride takes from an axis."""
    begin = min(max(begin + extent if begin < 0 else begin, 0), extent)
    end = min(max(end + extent if end < 0 else end, 0), extent)
    return begin, max(0, -((begin - end) // stride))


def slice_of(call: relax.Call) -> list[tuple[int, int, int]] | None:
    """Per axis (begin, stride, count) of a `strided_slice` call; None when it is not of positive, constant strides."""
    shape = shape_of(call.args[0])
    if shape is None or not all(isinstance(a, relax.Tuple) for a in call.args[1:]):
        return None
    try:
        axes, begin, end = (ints(a) for a in call.args[1:4])
        stride = ints(call.args[4]) if len(call.args) > 4 else (1,) * len(axes)
    except (TypeError, ValueError):  # symbolic bounds
        return None
    if any(s < 1 for s in stride):
        return None
    result = [(0, 1, d) for d in shape]
    for a, b, e, s in zip(axes, begin, end, stride, strict=True):
        a %= len(shape)
        first, count = slice_range(b, e, s, shape[a])
        result[a] = (first, s, count)
    return result


def zero_pad_of(call: relax.Call) -> list[tuple[int, int]] | None:
    """Per axis (before, after) of an `nn.pad` call with constant zeros; None for any other padding."""
    if str(call.attrs.pad_mode) != "constant" or float(call.attrs.pad_value) != 0.0:
        return None
    width = ints(call.attrs.pad_width)
    pairs = list(zip(width[::2], width[1::2], strict=True))
    return pairs if all(b >= 0 and a >= 0 for b, a in pairs) else None
