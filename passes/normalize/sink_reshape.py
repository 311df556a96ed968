"""Reshapes that only regroup rows move behind what works on rows, where they meet and cancel.

    matmul(reshape(x), w)      ->  reshape(matmul(x, w))            also element-wise operators behind it
    reshape(matmul(x, w))      ->  reshape(matmul(reshape(x), w))   where there is none to sink: the last one cancels

Importers flatten [B, T, C] to [B * T, C] around every linear layer; without those reshapes a linear layer can be fused
with the residual add and activation behind it. Stands before FoldAffine, Simplify behind it. Leaves alone reshapes that
change the last axis, and the flattening of a 1x1 map before a classifier.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_mpq.passes.normalize.exprs import channel_vector, is_constant, op_name, shape_of
from tvm_mpq.passes.normalize.layout_ops import is_elementwise
from tvm_mpq.passes.normalize.rewrite import Rewriter


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.SinkReshape")
class SinkReshape:
    """Move reshapes of rows behind matmuls and element-wise operators."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._sunk: set[relax.Var] = set()  # old variables that are now a reshape of a matmul's rows

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        matmul = op_name(value) == "relax.matmul"
        if matmul and isinstance(value.args[0], relax.Var) and _is_matrix(value.args[1]):
            x = self._before_reshape(value.args[0])
            if x is None:
                x = self._raised(var, value.args[0])
            return value if x is None else self._sink(var, value, value.args[0], x)
        old = [a for a in getattr(self.value[var], "args", ()) if isinstance(a, relax.Var)]
        if not is_elementwise(value) or len(old) != 1 or old[0] not in self._sunk:
            return value
        source = self.lookup(old[0])
        x, shape = self._before_reshape(source), shape_of(source) or ()
        if x is None or shape_of(var) != shape or not _per_channel(value, shape):
            return value
        return self._sink(var, value, source, x)

    def _sink(self, var: relax.Var, value: relax.Call, source: relax.Expr, x: relax.Expr) -> relax.Expr:
        """`value` on x instead of on its regrouping `source`, then regrouped."""
        args = [x if a.same_as(source) else a for a in value.args]
        moved = self.emit(relax.Call(value.op, args, value.attrs, value.ty_args), var.name)
        self._sunk.add(var)
        return relax.op.reshape(moved, shape_of(var))

    def _raised(self, var: relax.Var, x: relax.Expr) -> relax.Expr | None:
        """x regrouped as the matmul's result will be, where a bias is all that stands between the two."""
        end = var
        while (i := self.only_use(end)) is not None:
            end, value = self.bindings[i]
            shape = shape_of(end) or ()
            if op_name(value) == "relax.reshape":
                before = shape_of(value.args[0]) or ()
                if len(shape) < 3 or len(before) != 2 or shape[-1] != before[-1] or shape[1:-1] == (1, 1):
                    return None
                return self.emit(relax.op.reshape(x, (*shape[:-1], (shape_of(x) or (0,))[-1])), var.name)
            if op_name(value) != "relax.add" or not _per_channel(value, shape):
                return None
        return None

    def _before_reshape(self, var: relax.Var) -> relax.Expr | None:
        """What `var` is a regrouping of, where that has three axes or more."""
        value = self.definition(var)
        if op_name(value) != "relax.reshape":
            return None
        source, shape = shape_of(value.args[0]) or (), shape_of(var) or ()
        if len(source) < 3 or len(shape) < 2 or source[-1] != shape[-1] or source[1:-1] == (1, 1):
            return None
        return value.args[0]


def _is_matrix(expr: relax.Expr) -> bool:
    return is_constant(expr) and len(shape_of(expr) or ()) == 2


def _per_channel(value: relax.Call, shape: tuple[int, ...]) -> bool:
    """Constants broadcast along the last axis, and as vectors, so that they fit any number of leading axes."""
    constants = [a for a in value.args if is_constant(a)]
    vectors = all(channel_vector(c, len(shape), shape[-1]) is not None for c in constants)
    return vectors and all(len(shape_of(c) or ()) <= 1 for c in constants)
