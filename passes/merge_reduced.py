"""Reductions over several short axes at the end become reductions over one long axis, along which they are vectorized.

    mean(x[1, 256, 28, 28], [2, 3])      ->      reshape(mean(reshape(x, [1, 256, 784]), [2]), [1, 256, 1, 1])

The reshapes are views. Stands on a realized network before LegalizeOps. Leaves alone reductions whose last axis is long
enough by itself, those that leave the last axis, and those that skip an axis between.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_mpq.passes.normalize.exprs import axis_list, op_name, shape_of
from tvm_mpq.passes.normalize.rewrite import Rewriter

_OPERATORS = {
    f"relax.{name}": getattr(relax.op, name) for name in ("sum", "mean", "max", "min", "prod", "variance", "std")
}
_LONG = 32
"""Elements from which the schedules vectorize a reduction along memory (`float_schedules`)."""


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.MergeReduced")
class MergeReduced:
    """Merge reduced axes at the end of a tensor where the last one alone is short."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        if "main" not in [gv.name_hint for gv in mod.get_global_vars()]:
            return mod
        rewriter = _Rewriter(mod)
        return rewriter.run() if any(_merged_from(value) is not None for _, value in rewriter.bindings) else mod


class _Rewriter(Rewriter):
    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        first = _merged_from(value)
        if first is None:
            return value
        data, shape = value.args[0], shape_of(value.args[0]) or ()
        merged = self.emit(relax.op.reshape(data, (*shape[:first], math.prod(shape[first:]))), f"{var.name}_rows")
        reduced = _OPERATORS[op_name(value)](merged, [first], False)
        if shape_of(var) == shape[:first]:
            return reduced
        return relax.op.reshape(self.emit(reduced, f"{var.name}_reduced"), shape_of(var))


def _merged_from(value: relax.Expr) -> int | None:
    """The first of the axes to be merged; None where nothing is."""
    if op_name(value) not in _OPERATORS:
        return None
    shape = shape_of(value.args[0])
    if shape is None:
        return None
    rank = len(shape)
    axes = tuple(range(rank)) if value.attrs.axis is None else tuple(sorted(axis_list(value.attrs.axis, rank)))
    first = rank - len(axes)
    neighbours = len(axes) > 1 and axes == tuple(range(first, rank))
    return first if neighbours and shape[-1] < _LONG <= math.prod(shape[first:]) else None
