"""One-dimensional maps become maps of height 1: their convolutions and poolings are two-dimensional ones from here on.

    conv1d / pooling1d on [N, C, W]     ->  conv2d / pooling2d on [N, C, 1, W], conv1d_transpose likewise
    element-wise, concat, pad, slice, reductions, softmax between them  ->  follow, with an axis more

A map gets its height where an operator first needs it and loses it where one reads it that has no such form, so that
nothing stands between two neighbouring convolutions. Stands before ChannelsLast. Leaves alone convolutions with
computed weights and those of channels-last data.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.passes.normalize import layout_ops
from tvm_mpq.passes.normalize.exprs import (
    NCHW_OF_NHWC,
    NHWC_SUFFIX,
    array_of,
    axis_list,
    const,
    ints,
    is_constant,
    is_float,
    op_name,
    shape_of,
)
from tvm_mpq.passes.normalize.rewrite import Rewriter

_AXIS = {0: 0, 1: 1, 2: 3}
"""Where an axis of [N, C, W] stands in [N, C, 1, W]."""

_POOLS = {"relax.nn.max_pool1d": relax.op.nn.max_pool2d, "relax.nn.avg_pool1d": relax.op.nn.avg_pool2d}
_ADAPTIVE = "relax.nn.adaptive_avg_pool1d"
_TRANSPOSED = "relax.nn.conv1d_transpose"


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.Conv1dAsConv2d")
class Conv1dAsConv2d:
    """Rewrite one-dimensional spatial operators to two-dimensional ones and let their neighbours follow."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._maps: dict[relax.Var, relax.Expr] = {}  # old variable [N, C, W] -> its value as [N, C, 1, W]
        self._wanted = layout_ops.wanted(self.bindings, _is_spatial, rank=3)

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Var) and value in self._maps:
            self._maps[var] = self._maps[value]
            return
        raised = self._raise(var, value) if isinstance(value, relax.Call) else None
        if raised is not None:
            self._maps[var] = self.emit(raised, var.name)
        else:
            super().visit(var, value)

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """What reads a map and gives none, such as a flatten, starts from the map of height 1."""
        from_map = op_name(value) == "relax.reshape" or layout_ops.is_reduction(value)
        source = self._maps.get(self.value[var].args[0]) if from_map else None
        if source is not None:
            if layout_ops.is_reduction(value):
                source = self.emit(_reduced(value, source), var.name)
            shape = shape_of(var)
            return source if shape_of(source) == shape else relax.op.reshape(source, shape)
        return value

    def lookup(self, var: relax.Var) -> relax.Expr:
        if var in self._maps and var not in self._replaced:
            self.replace(var, self.emit(relax.op.reshape(self._maps[var], shape_of(var)), var.name))
        return super().lookup(var)

    def _map(self, var: relax.Var) -> relax.Expr:
        """[N, C, W] with height 1. Written as ChannelsLast wants it, so that the two transpositions cancel."""
        if var not in self._maps:
            (n, c, w), name, flat = shape_of(var) or (0, 0, 0), var.name + NHWC_SUFFIX, self.lookup(var)
            made = self.definition(flat)
            if op_name(made) == "relax.reshape" and shape_of(made.args[0]) == (n, c, 1, w):
                self._maps[var] = made.args[0]  # the model took the height out itself
            else:
                last = self.emit(relax.op.permute_dims(flat, (0, 2, 1)), name)
                last = self.emit(relax.op.reshape(last, (n, 1, w, c)), name)
                self._maps[var] = self.emit(relax.op.permute_dims(last, NCHW_OF_NHWC), var.name)
        return self._maps[var]

    def _raise(self, var: relax.Var, value: relax.Call) -> relax.Expr | None:
        """The operator on maps of height 1; None where it must stay as it is."""
        if _is_spatial(value):
            return _spatial(value, self._map(value.args[0]))
        operands = layout_ops.operands(value)
        if len(shape_of(var) or ()) != 3 or not layout_ops.is_agnostic(value):
            return None
        if var not in self._wanted and not any(a in self._maps for a in operands if isinstance(a, relax.Var)):
            return None
        if layout_ops.is_reduction(value):
            return _reduced(value, self._map(operands[0]))
        return layout_ops.agnostic(value, self._operand, _AXIS)

    def _operand(self, expr: relax.Expr) -> relax.Expr | None:
        """An operand of an operator on maps of height 1; None when it cannot be given so."""
        if is_constant(expr):
            array = array_of(expr)
            return expr if array.ndim < 2 else const(np.expand_dims(array, -2))
        if not isinstance(expr, relax.Var):
            return expr  # an immediate
        rank = len(shape_of(expr) or ())
        return self._map(expr) if rank == 3 else self.lookup(expr) if shape_of(expr) == () else None


def _reduced(call: relax.Call, data: relax.Expr) -> relax.Call:
    """A reduction of a map of height 1, axes kept; over its width is over all of its positions."""
    axes = [a for axis in axis_list(call.attrs.axis, 3) for a in ((2, 3) if axis == 2 else (axis,))]
    return layout_ops.reduction(call, data, axes)


def _is_spatial(value: relax.Expr) -> bool:
    """A convolution or pooling of float32 NCW maps."""
    name = op_name(value)
    convolution = name in ("relax.nn.conv1d", _TRANSPOSED)
    if not (convolution or name in _POOLS or name == _ADAPTIVE) or not isinstance(value.args[0], relax.Var):
        return False
    attrs = value.attrs
    layout = str(attrs.data_layout if convolution else attrs.layout)
    if layout != "NCW" or str(attrs.out_layout) not in ("", "NCW") or not all(is_float(a) for a in value.args):
        return False
    return not convolution or (sorted(str(attrs.kernel_layout)) == sorted("OIW") and is_constant(value.args[1]))


def _spatial(call: relax.Call, data: relax.Expr) -> relax.Call:
    """A call for which `_is_spatial` holds, on maps of height 1."""
    name, attrs = op_name(call), call.attrs
    if name == _ADAPTIVE:
        return relax.op.nn.adaptive_avg_pool2d(data, (1, ints(attrs.output_size)[0]))
    (stride,), (left, right), (dilation,) = ints(attrs.strides), ints(attrs.padding), ints(attrs.dilation)
    strides, padding, dilations = (1, stride), (0, left, 0, right), (1, dilation)
    if name in _POOLS:
        window = (1, ints(attrs.pool_size)[0])
        whole, counted = bool(attrs.ceil_mode), bool(attrs.count_include_pad)
        return _POOLS[name](data, window, strides, padding, dilations, whole, counted)
    order = [str(attrs.kernel_layout).index(letter) for letter in ("IOW" if name == _TRANSPOSED else "OIW")]
    weight, groups = const(np.expand_dims(np.transpose(array_of(call.args[1]), order), 2)), int(attrs.groups)
    if name == _TRANSPOSED:
        extra = (0, ints(attrs.output_padding)[0])
        return relax.op.nn.conv2d_transpose(data, weight, strides, padding, extra, dilations, groups)
    return relax.op.nn.conv2d(data, weight, strides, padding, dilations, groups)
