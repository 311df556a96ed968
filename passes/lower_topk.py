"""The largest or smallest elements along an axis become a kernel, where few are asked for.

    topk [..., n, ...] -> ([..., k, ...], [..., k, ...])      ->      call_tir(top, x)

TVM's own code sorts whole rows. Stands on a realized network before LegalizeOps. Leaves alone what asks for more than
an eighth of a long row, or not for both results, and other types than float32. The first of equal elements comes first,
and NaN counts as above infinity.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_mpq.kernels.emit import Parameter, function
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.frames.top import TopElements, top_elements
from tvm_mpq.passes.kernel_rewriter import KernelPass, KernelRewriter
from tvm_mpq.passes.normalize.exprs import dtype_of, op_name, shape_of

_FEW = 16
"""Elements that are worth a heap however short the row is."""


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.LowerTopk")
class LowerTopk(KernelPass):
    """Replace `topk` of float32 in `main` by one PrimFunc for each of its shapes. As `KernelPass`."""

    def rewriter(self, mod: tvm.IRModule) -> _Rewriter:
        return _Rewriter(mod, self._features, self._threads)


class _Rewriter(KernelRewriter[TopElements]):
    def __init__(self, mod: tvm.IRModule, features: frozenset[str], threads: int) -> None:
        super().__init__(mod, features, threads, "top")
        found = ((var, _top(value)) for var, value in self.bindings)
        self.found = {var: top for var, top in found if top is not None}

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var not in self.found:
            return value
        top, (data,) = self.found[var], value.args
        results = [relax.TensorType([int(d) for d in t.shape.values], t.dtype) for t in var.ty.fields]
        shapes = [tuple(int(d) for d in t.shape.values) for t in results]
        params = (
            Parameter("x", shape_of(data) or (), "float32"),
            Parameter("values", shapes[0], "float32"),
            Parameter("places", shapes[1], str(results[1].dtype)),
        )

        def build() -> tvm.tir.PrimFunc:
            with function(params) as f:
                top.write(self._threads, native_lanes(self._features), *(f.flat(p.name) for p in params))
            return f.func

        return relax.call_tir(self.kernel((top, params), build), [data], results)


def _top(value: relax.Expr) -> TopElements | None:
    """What is asked for; None where it is not both results of few elements of float32."""
    if op_name(value) != "relax.topk" or dtype_of(value.args[0]) != "float32":
        return None
    shape, attrs = shape_of(value.args[0]), value.attrs
    if not shape or str(attrs.ret_type) != "both":
        return None
    axis, count = int(attrs.axis) % len(shape), int(attrs.k)
    if not 0 < count <= max(min(_FEW, shape[axis]), shape[axis] // 8):
        return None
    return top_elements(shape, axis, count, bool(attrs.largest))
