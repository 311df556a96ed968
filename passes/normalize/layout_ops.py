"""Which operators can change their data layout, and how each is written in the other one.

Used by Conv1dAsConv2d, which gives maps a height, and by ChannelsLast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from tvm_mpq.passes.normalize import conv_transpose
from tvm_mpq.passes.normalize.exprs import (
    array_of,
    axis_list,
    const,
    ints,
    is_constant,
    is_float,
    op_name,
    shape_of,
)

_ACTIVATIONS = ("relu", "relu6", "leakyrelu", "gelu", "gelu_tanh", "silu", "selu", "softplus")
_FUNCTIONS = ("sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "square", "negative", "abs", "erf", "floor", "ceil")
_ARITHMETIC = ("round", "sign", "sin", "cos", "clip", "add", "subtract", "multiply", "divide", "maximum", "minimum")
_COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "where", "power", "astype")
_LOGIC = ("logical_not", "logical_and", "logical_or")
_ELEMENTWISE = frozenset(f"relax.{name}" for name in (*_FUNCTIONS, *_ARITHMETIC, *_COMPARISONS, *_LOGIC)) | frozenset(
    f"relax.nn.{name}" for name in _ACTIVATIONS
)
_REDUCTIONS = {f"relax.{name}": getattr(relax.op, name) for name in ("mean", "max", "min", "sum")}
_SOFTMAX = {"relax.nn.softmax": relax.op.nn.softmax, "relax.nn.log_softmax": relax.op.nn.log_softmax}
_POOLS = {"relax.nn.max_pool2d": relax.op.nn.max_pool2d, "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d}
_ADAPTIVE = "relax.nn.adaptive_avg_pool2d"
_FOLLOWERS = frozenset(
    {"relax.concat", "relax.nn.pad", "relax.strided_slice", "relax.nn.prelu", *_REDUCTIONS, *_SOFTMAX}
)

_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
"""Where an axis of NCHW stands in NHWC."""


def is_elementwise(value: relax.Expr) -> bool:
    return op_name(value) in _ELEMENTWISE


def is_reduction(value: relax.Expr) -> bool:
    return op_name(value) in _REDUCTIONS


def operands(value: relax.Call) -> list[relax.Expr]:
    """Arguments, with the fields of tuples in their places."""
    return [a for arg in value.args for a in (arg.fields if isinstance(arg, relax.Tuple) else [arg])]


def wanted(
    bindings: Sequence[tuple[relax.Var, relax.Expr]], is_spatial: Callable[[relax.Expr], bool], rank: int
) -> set[relax.Var]:
    """Maps of `rank` that a spatial operator will read, so that operators before it may follow as well."""
    found: set[relax.Var] = set()
    for var, value in reversed(bindings):
        if is_spatial(value):
            found.add(value.args[0])
        elif var in found and is_agnostic(value):
            maps = (a for a in operands(value) if isinstance(a, relax.Var) and len(shape_of(a) or ()) == rank)
            found.update(maps)
    return found


def is_agnostic(value: relax.Expr) -> bool:
    """An operator that works in any layout once its axes are renumbered."""
    name = op_name(value)
    if name in _REDUCTIONS:
        return bool(value.attrs.keepdims)
    return name in _ELEMENTWISE or name in _FOLLOWERS


def is_spatial_nchw(value: relax.Expr) -> bool:
    """A convolution, pooling or resize of float32 NCHW maps that exists in NHWC as well."""
    name = op_name(value)
    if conv_transpose.is_transposed(value):
        return conv_transpose.is_convolution(value)
    if name == "relax.nn.conv2d":
        attrs = value.attrs
        plain = str(attrs.data_layout) == "NCHW" and str(attrs.out_layout) in ("", "NCHW")
        plain = plain and sorted(str(attrs.kernel_layout)) == sorted("OIHW") and is_constant(value.args[1])
        return plain and is_float(value.args[0]) and is_float(value.args[1])
    if name in _POOLS or name == _ADAPTIVE:
        return str(value.attrs.layout) == "NCHW" and str(value.attrs.out_layout) in ("", "NCHW")
    if name == "relax.image.resize2d":
        return str(value.attrs.layout) == "NCHW" and isinstance(value.args[1], relax.ShapeExpr)
    return False


def ohwi_weights(call: relax.Call) -> relax.Call:
    """An NHWC convolution with its constant weights in OHWI; any other convolution as it is."""
    attrs = call.attrs
    layout = str(attrs.kernel_layout)
    if str(attrs.data_layout) != "NHWC" or layout == "OHWI" or sorted(layout) != sorted("OHWI"):
        return call
    return _conv2d(call, call.args[0]) if is_constant(call.args[1]) and is_float(call.args[1]) else call


def spatial(call: relax.Call, data: relax.Expr) -> relax.Call:
    """A call for which `is_spatial_nchw` holds, on channels-last data, dilated where it is transposed."""
    name, attrs = op_name(call), call.attrs
    if conv_transpose.is_transposed(call):
        return conv_transpose.convolution(call, data)
    if name == "relax.nn.conv2d":
        return _conv2d(call, data)
    if name == _ADAPTIVE:
        return relax.op.nn.adaptive_avg_pool2d(data, attrs.output_size, "NHWC")
    if name in _POOLS:
        return _POOLS[name](
            data,
            attrs.pool_size,
            attrs.strides,
            attrs.padding,
            attrs.dilation,
            bool(attrs.ceil_mode),
            bool(attrs.count_include_pad),
            "NHWC",
        )
    return relax.op.image.resize2d(
        data,
        call.args[1],
        tuple(float(r) for r in attrs.roi),
        "NHWC",
        str(attrs.method),
        str(attrs.coordinate_transformation_mode),
        str(attrs.rounding_method),
        float(attrs.cubic_alpha),
        int(attrs.cubic_exclude),
        float(attrs.extrapolation_value),
        attrs.out_dtype,
    )


def _conv2d(call: relax.Call, data: relax.Expr) -> relax.Call:
    attrs = call.attrs
    order = [str(attrs.kernel_layout).index(letter) for letter in "OHWI"]
    weight = const(np.transpose(array_of(call.args[1]), order))
    return relax.op.nn.conv2d(
        data, weight, attrs.strides, attrs.padding, attrs.dilation, int(attrs.groups), "NHWC", "OHWI", "NHWC"
    )


def reduction(call: relax.Call, data: relax.Expr, axes: Sequence[int]) -> relax.Call:
    """The same reduction of other data over other axes, which are kept."""
    return _REDUCTIONS[op_name(call)](data, sorted(axes), keepdims=True)


def agnostic(
    call: relax.Call, operand: Callable[[relax.Expr], relax.Expr | None], places: Mapping[int, int] = _AXIS
) -> relax.Call | None:
    """A call for which `is_agnostic` holds, on operands in another layout; None when one of them cannot be given so.

    places: where each axis of the original stands in the other layout, of four axes.
    """
    name, attrs, rank = op_name(call), call.attrs, len(places)
    if name in _ELEMENTWISE:
        args = [operand(a) for a in call.args]
        return None if any(a is None for a in args) else relax.Call(call.op, args, attrs, call.ty_args)
    if name == "relax.concat":
        fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else [None]
        if any(f is None or shape_of(f) is None for f in fields):
            return None
        return relax.op.concat([operand(f) for f in fields], places[int(attrs.axis) % rank])
    data = operand(call.args[0])
    if data is None:
        return None
    if name == "relax.nn.prelu":
        axis = places[int(attrs.axis) % rank]
        return relax.op.nn.prelu(data, call.args[1], axis) if is_constant(call.args[1]) else None
    if name in _SOFTMAX:
        return _SOFTMAX[name](data, places[int(attrs.axis) % rank])
    if name in _REDUCTIONS:
        return reduction(call, data, [places[a] for a in axis_list(attrs.axis, rank)])
    if name == "relax.nn.pad":
        width, moved = ints(attrs.pad_width), [0] * 8
        for old, new in places.items():
            moved[2 * new : 2 * new + 2] = width[2 * old : 2 * old + 2]
        return relax.op.nn.pad(data, moved, str(attrs.pad_mode), float(attrs.pad_value))
    return _slice(call, data, places)


def _slice(call: relax.Call, data: relax.Expr, places: Mapping[int, int]) -> relax.Call | None:
    arguments: list[Any] = list(call.args[1:])
    if not arguments or not isinstance(arguments[0], relax.Tuple):
        return None
    axes = [places[a % len(places)] for a in ints(arguments[0])]
    return relax.op.strided_slice(data, axes, *arguments[1:], assume_inbound=bool(call.attrs.assume_inbound))
