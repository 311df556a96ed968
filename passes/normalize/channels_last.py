"""One layout, once: everything from the first to the last spatial operator becomes channels-last.

    conv2d / pooling / resize in NCHW     ->  the same in NHWC, weights OHWI (transposed here)
    conv2d_transpose in NCHW              ->  conv2d in NHWC behind input dilation (see conv_transpose.py)
    element-wise, concat, pad, slice, reductions, softmax between them  ->  follow, axes renumbered
    flatten [N, C, H, W] -> matmul        ->  flatten of NHWC, the matmul's weights permuted here

An NCHW input is permuted where channels-last data is first needed, an output where main returns it, and the operands
of an operator that cannot be moved just before it. Expects Simplify before it (and wants it after, to cancel
neighbouring permutes). Leaves convolutions with computed weights, and models that are channels-last already, alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.passes.normalize import conv_transpose, layout_ops
from tvm_mpq.passes.normalize.exprs import (
    NCHW_OF_NHWC,
    NHWC_OF_NCHW,
    NHWC_SUFFIX,
    array_of,
    const,
    is_constant,
    number,
    op_name,
    prod,
    shape_of,
)
from tvm_mpq.passes.normalize.rewrite import OUTPUT, Rewriter


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.ChannelsLast")
class ChannelsLast:
    """Rewrite spatial operators to NHWC and let their neighbours follow."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


@dataclass(frozen=True)
class _Moved:
    """A tensor in the other layout: `expr` = the original permuted by `axes`.

    Flattened maps are [N, H*W*C] instead of [N, C*H*W]: there `flat` is (C, H, W) and `axes` is empty.
    """

    expr: relax.Expr
    axes: tuple[int, ...]
    flat: tuple[int, ...] = ()


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._moved: dict[relax.Var, _Moved] = {}
        self._wanted = layout_ops.wanted(self.bindings, layout_ops.is_spatial_nchw, rank=4)

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Call):
            moved = self._move(var, value)
            if moved is not None:
                self._moved[var] = moved
                return
        elif isinstance(value, relax.Var) and value in self._moved:
            self._moved[var] = self._moved[value]
            return
        super().visit(var, value if not isinstance(value, relax.Call) else self._flat_matmul(value))

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return layout_ops.ohwi_weights(value) if op_name(value) == "relax.nn.conv2d" else value

    def lookup(self, var: relax.Var) -> relax.Expr:
        """In the original layout; moved back where only the other one exists yet."""
        moved = self._moved.get(var)
        if moved is None or var in self._replaced:
            return super().lookup(var)
        if moved.flat:
            (n, _), (c, h, w) = shape_of(var) or (0, 0), moved.flat
            maps = self.emit(relax.op.reshape(moved.expr, (n, h, w, c)), var.name)
            maps = self.emit(relax.op.permute_dims(maps, NCHW_OF_NHWC), var.name)
            back = self.emit(relax.op.reshape(maps, (n, c * h * w)), var.name)
        else:
            back = self._permuted(moved.expr, tuple(int(i) for i in np.argsort(moved.axes)), var.name)
        self.replace(var, back)
        return back

    def _last(self, var: relax.Expr) -> relax.Expr:
        """A map [N, C, H, W] as [N, H, W, C]."""
        if not isinstance(var, relax.Var):
            return const(np.transpose(array_of(var), NHWC_OF_NCHW))
        if var not in self._moved:
            last = self._permuted(self.lookup(var), NHWC_OF_NCHW, var.name + NHWC_SUFFIX)
            self._moved[var] = _Moved(last, NHWC_OF_NCHW)
        return self._moved[var].expr

    def _permuted(self, expr: relax.Expr, axes: tuple[int, ...], name: str) -> relax.Expr:
        if is_constant(expr):
            return const(np.transpose(array_of(expr), axes))
        shape = shape_of(expr) or ()
        if len(axes) == 4 and (shape[1:3] if axes == NCHW_OF_NHWC else shape[2:]) == (1, 1):
            return self.emit(relax.op.reshape(expr, [shape[a] for a in axes]), name)
        return self.emit(relax.op.permute_dims(expr, axes), name)

    def _move(self, var: relax.Var, value: relax.Call) -> _Moved | None:
        """The operator in the other layout, or None when it must stay in the original."""
        if layout_ops.is_spatial_nchw(value):
            data, apart = self._last(value.args[0]), conv_transpose.input_dilation(value)
            if apart != (1, 1):
                data = self.emit(conv_transpose.dilation_call(self.builder, data, apart), var.name)
            return _Moved(self.emit(layout_ops.spatial(value, data), var.name), NHWC_OF_NCHW)
        name = op_name(value)
        if name == "relax.reshape":
            return self._reshape(var, value)
        if layout_ops.is_agnostic(value):
            flat = self._flat_elementwise(var, value)
            if flat is not None:
                return flat
            if _rank(var) == 4 and (var in self._wanted or any(self._is_last(a) for a in layout_ops.operands(value))):
                moved_call = layout_ops.agnostic(value, self._last_operand)
                if moved_call is not None:
                    return _Moved(self.emit(moved_call, var.name), NHWC_OF_NCHW)
        return None

    def _is_last(self, expr: relax.Expr) -> bool:
        return isinstance(expr, relax.Var) and expr in self._moved and self._moved[expr].axes == NHWC_OF_NCHW

    def _last_operand(self, expr: relax.Expr) -> relax.Expr | None:
        """An operand of an element-wise operator for channels-last data; None when it cannot be given so."""
        if is_constant(expr):
            array = array_of(expr)
            if array.size == 1:
                return expr
            return const(np.transpose(array.reshape((1,) * (4 - array.ndim) + array.shape), NHWC_OF_NCHW))
        if not isinstance(expr, relax.Var):
            return expr  # an immediate
        shape = shape_of(expr)
        if shape == ():
            return self.lookup(expr)
        return self._last(expr) if shape is not None and len(shape) == 4 else None

    def _reshape(self, var: relax.Var, value: relax.Call) -> _Moved | None:
        """Reshapes that keep N and C in front: flatten of a map, [N, C, H*W] and back."""
        source, shape = value.args[0], shape_of(var) or ()
        moved = self._moved.get(source) if isinstance(source, relax.Var) else None
        before = shape_of(source) or ()
        if moved is None or moved.flat or len(shape) < 2 or len(before) < 2 or before[0] != shape[0]:
            return None
        if len(before) == 4 and len(shape) == 2 and prod(before[2:]) > 1 and self._only_matmuls(var):
            return _Moved(self.emit(relax.op.reshape(moved.expr, shape), var.name), (), before[1:])
        if before[1] != shape[1] or (len(before), len(shape)) not in ((4, 3), (3, 4)):
            return None
        axes = (0, 2, 1) if len(shape) == 3 else NHWC_OF_NCHW
        return _Moved(self.emit(relax.op.reshape(moved.expr, [shape[a] for a in axes]), var.name), axes)

    def _only_matmuls(self, var: relax.Var) -> bool:
        """True when a flattened map ends in matmuls with constant weights, through element-wise operators at most."""
        for i in self.uses.get(var, ()):
            if i == OUTPUT:
                return False
            user, value = self.bindings[i]
            if op_name(value) == "relax.matmul" and value.args[0].same_as(var) and _is_matrix(value.args[1]):
                continue
            simple = layout_ops.is_elementwise(value) and shape_of(user) == shape_of(var)
            simple = simple and all(a.same_as(var) or number(a) is not None for a in value.args)
            if not (simple and self._only_matmuls(user)):
                return False
        return bool(self.uses.get(var))

    def _flat_elementwise(self, var: relax.Var, value: relax.Call) -> _Moved | None:
        sources = [a for a in layout_ops.operands(value) if isinstance(a, relax.Var)]
        moved = self._moved.get(sources[0]) if sources else None
        if moved is None or not moved.flat or not self._only_matmuls(var) or any(s not in self._moved for s in sources):
            return None
        args = [self._moved[a].expr if isinstance(a, relax.Var) else a for a in value.args]
        call = relax.Call(value.op, args, value.attrs, value.ty_args)
        return _Moved(self.emit(call, var.name), (), moved.flat)

    def _flat_matmul(self, value: relax.Call) -> relax.Call:
        """A matmul on a flattened map takes its weights' rows in the other order; its result has no layout."""
        source = value.args[0] if op_name(value) == "relax.matmul" else None
        moved = self._moved.get(source) if isinstance(source, relax.Var) else None
        if moved is None or not moved.flat:
            return value
        c, h, w = moved.flat
        weight = array_of(value.args[1])
        rows = weight.reshape(c, h, w, -1).transpose(1, 2, 0, 3).reshape(weight.shape)
        return relax.op.matmul(moved.expr, const(rows), value.attrs.out_dtype)


def _rank(expr: relax.Expr) -> int:
    shape = shape_of(expr)
    return -1 if shape is None else len(shape)


def _is_matrix(expr: relax.Expr) -> bool:
    return is_constant(expr) and _rank(expr) == 2
