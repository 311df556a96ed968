"""Transposes of float matrices, such as layout changes at a network's outputs, become kernels.

    permute_dims [n, a, b] -> [n, b, a]      ->      call_tir(transpose, x)

Axes that stay beside each other count as one, so this serves NHWC -> NCHW as well. Stands on a realized network before
LegalizeOps, behind the passes that read transposes as views. Leaves alone permutations that keep the last axis, which
are copies of rows, and those of more than two groups of axes. The kernel's parameters have the tensors' own shapes: a
reshape of main's result would be a copy.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_mpq.kernels.emit import Parameter, function
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.frames.transpose import Transposition
from tvm_mpq.passes.kernel_rewriter import KernelPass, KernelRewriter
from tvm_mpq.passes.normalize.exprs import axis_list, dtype_of, op_name, shape_of


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.LowerTranspose")
class LowerTranspose(KernelPass):
    """Replace transposes of float32 matrices in `main` by one PrimFunc for each of their shapes. As `KernelPass`."""

    def rewriter(self, mod: tvm.IRModule) -> _Rewriter:
        return _Rewriter(mod, self._features, self._threads)


class _Rewriter(KernelRewriter[Transposition]):
    def __init__(self, mod: tvm.IRModule, features: frozenset[str], threads: int) -> None:
        super().__init__(mod, features, threads, "transpose")
        found = ((var, _transposition(value)) for var, value in self.bindings)
        self.found = {var: transposition for var, transposition in found if transposition is not None}

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var not in self.found:
            return value
        (data,) = value.args
        params = Parameter("x", shape_of(data) or (), "float32"), Parameter("out", shape_of(var) or (), "float32")

        def build() -> tvm.tir.PrimFunc:
            with function(params) as f:
                load, store = f.flat("x").load, f.flat("out").store
                self.found[var].write(self._threads, native_lanes(self._features), load, store)
            return f.func

        return relax.call_tir(self.kernel(params, build), [data], relax.TensorType(params[1].shape, "float32"))


def _transposition(value: relax.Expr) -> Transposition | None:
    """The matrices that this turns; None where it turns none, or no floats."""
    if op_name(value) != "relax.permute_dims" or dtype_of(value) != "float32":
        return None
    shape = shape_of(value.args[0])
    if shape is None:
        return None
    rank = len(shape)
    axes = axis_list(value.attrs.axes, rank) if value.attrs.axes is not None else tuple(range(rank)[::-1])
    return Transposition.of(shape, axes)
