"""What importers leave behind is taken out, and one operation is written one way.

    tuples that are only taken apart, dropout, no-op reshape / permute / cast / slice / pad / broadcast  ->  gone
    squeeze, expand_dims, flatten                             ->  reshape
    reshape(reshape(x)), permute(permute(x))                  ->  one
    batch_norm(x, constants)[0]                               ->  x * scale + shift   (inference)
    split(x)[i], take(x, one constant index)                  ->  strided_slice(x), reshaped
    mean or max over two axes of a map without keepdims       ->  with keepdims, then reshape
    operators on constants                                    ->  constants           (see fold_constants)

May stand anywhere. Leaves batch_norm with weights that are no constants, and everything else, alone.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.passes.normalize.exprs import (
    array_of,
    axis_list,
    const,
    dtype_of,
    ints,
    is_constant,
    number,
    op_name,
    prod,
    shape_of,
    slice_of,
    zero_pad_of,
)
from tvm_mpq.passes.normalize.fold_constants import fold
from tvm_mpq.passes.normalize.rewrite import Rewriter

_RESHAPES = frozenset(
    {"relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten", "relax.nn.batch_flatten"}
)
_REDUCTIONS = {"relax.mean": relax.op.mean, "relax.max": relax.op.max}


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.Simplify")
class Simplify:
    """Take out litter and no-ops, and write equal operations equally."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


class _Rewriter(Rewriter):
    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        value = fold(value, var)
        if isinstance(value, relax.TupleGetItem):
            return self._taken(var, value)
        if not isinstance(value, relax.Call) or not value.args or shape_of(var) is None:
            return value
        name = op_name(value)
        if name in _RESHAPES:
            return self._reshape(var, value)
        if name == "relax.permute_dims":
            return self._permute(value)
        if name in _REDUCTIONS:
            return self._reduction(var, value)
        if name == "relax.take":
            return self._take(var, value)
        return value.args[0] if _is_noop(name, var, value) else value

    def _taken(self, var: relax.Var, value: relax.TupleGetItem) -> relax.Expr:
        """One element of what dropout, batch_norm or split returns."""
        source = self.definition(value.tuple_value)
        name = op_name(source)
        if name == "relax.nn.dropout" and value.index == 0:
            return source.args[0]
        if name == "relax.nn.batch_norm" and value.index == 0:
            plain = self._batch_norm(var, source)
        elif name == "relax.split":
            plain = _split(source, value.index)
        else:
            plain = None
        return value if plain is None else plain

    def _batch_norm(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        x, *parameters = call.args
        shape = shape_of(x)
        if shape is None or not all(is_constant(p) for p in parameters) or dtype_of(x) != "float32":
            return None
        gamma, beta, mean, variance = (array_of(p).astype(np.float64) for p in parameters)
        scale = 1.0 / np.sqrt(variance + float(call.attrs.epsilon))
        if call.attrs.scale:
            scale = scale * gamma
        shift = (beta if call.attrs.center else 0.0) - mean * scale
        axis = int(call.attrs.axis) % len(shape)
        along = [-1 if i == axis else 1 for i in range(len(shape))]
        scaled = self.emit(relax.op.multiply(x, const(scale.astype(np.float32).reshape(along))), var.name)
        return relax.op.add(scaled, const(shift.astype(np.float32).reshape(along)))

    def _reshape(self, var: relax.Var, value: relax.Call) -> relax.Expr:
        source = value.args[0]
        inner = self.definition(source)
        if op_name(inner) == "relax.reshape":
            source = inner.args[0]
        shape = shape_of(var)
        if shape_of(source) == shape:
            return source
        if source.same_as(value.args[0]) and op_name(value) == "relax.reshape":
            return value
        return relax.op.reshape(source, shape)

    def _permute(self, value: relax.Call) -> relax.Expr:
        source = value.args[0]
        rank = len(shape_of(source) or ())
        axes = axis_list(value.attrs.axes, rank) if value.attrs.axes is not None else tuple(range(rank))[::-1]
        inner = self.definition(source)
        if op_name(inner) == "relax.permute_dims":
            first = axis_list(inner.attrs.axes, rank) if inner.attrs.axes is not None else tuple(range(rank))[::-1]
            axes = tuple(first[a] for a in axes)
            source = inner.args[0]
        if axes == tuple(range(rank)):
            return source
        return value if source.same_as(value.args[0]) else relax.op.permute_dims(source, axes)

    def _reduction(self, var: relax.Var, value: relax.Call) -> relax.Expr:
        shape = shape_of(value.args[0])
        if shape is None or len(shape) != 4 or value.attrs.keepdims or value.attrs.axis is None:
            return value
        axes = axis_list(value.attrs.axis, 4)
        if len(axes) != 2:
            return value
        kept = self.emit(_REDUCTIONS[op_name(value)](value.args[0], axes, keepdims=True), var.name)
        return relax.op.reshape(kept, shape_of(var))

    def _take(self, var: relax.Var, value: relax.Call) -> relax.Expr:
        source, index, axis = value.args[0], number(value.args[1]), value.attrs.axis
        shape = shape_of(source)
        if shape is None or index is None or axis is None or prod(shape_of(value.args[1]) or ()) != 1:
            return value
        axis = int(axis) % len(shape)
        begin = int(index)
        if not 0 <= begin < shape[axis]:  # what such an index means depends on the operator's mode
            return value
        piece = self.emit(relax.op.strided_slice(source, [axis], [begin], [begin + 1], [1]), var.name)
        return relax.op.reshape(piece, shape_of(var))


def _split(call: relax.Call, index: int) -> relax.Expr | None:
    shape = shape_of(call.args[0])
    if shape is None:
        return None
    axis = int(call.attrs.axis) % len(shape)
    sections = call.attrs.indices_or_sections
    if isinstance(sections, int | tvm.tirx.IntImm):
        step = -(-shape[axis] // int(sections))
        edges = [min(i * step, shape[axis]) for i in range(int(sections) + 1)]
    else:
        edges = [0, *(min(max(i, 0), shape[axis]) for i in ints(sections)), shape[axis]]
    return relax.op.strided_slice(call.args[0], [axis], [edges[index]], [edges[index + 1]], [1])


def _is_noop(name: str, var: relax.Var, value: relax.Call) -> bool:
    x = value.args[0]
    if shape_of(x) != shape_of(var) or dtype_of(x) != dtype_of(var):
        return False
    if name in ("relax.broadcast_to", "relax.astype"):
        return True
    if name == "relax.strided_slice":
        taken = slice_of(value)
        return taken is not None and all(b == 0 and s == 1 for b, s, _ in taken)
    return name == "relax.nn.pad" and zero_pad_of(value) is not None
