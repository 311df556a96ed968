"""Attention whose heads nothing joins becomes one kernel too, on floats alone; see `normalize/attention.py`.

    q, k, v, matmul(softmax(scale * matmul(q, transpose(k))), v)      ->      call_tir(attention, linear's result)

Stands on a realized network before LegalizeOps. What joins its heads is a composite since Normalize.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.passes.kernel_rewriter import KernelPass, KernelRewriter
from tvm_mpq.passes.normalize.attention import FoundAttention, find_attention
from tvm_mpq.passes.normalize.exprs import shape_of
from tvm_mpq.schema import FLOAT_BITS, FP32


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FuseAttention")
class FuseAttention(KernelPass):
    """Replace attention in `main` by one PrimFunc for each of its shapes. As `KernelPass`."""

    def rewriter(self, mod: tvm.IRModule) -> _Rewriter:
        return _Rewriter(mod, self._features, self._threads)


class _Rewriter(KernelRewriter[FoundAttention]):
    def __init__(self, mod: tvm.IRModule, features: frozenset[str], threads: int) -> None:
        super().__init__(mod, features, threads, "attention")
        matches = (find_attention(self, var, value) for var, value in self.bindings)
        self.found = {match.end: match for match in matches if match is not None}

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        match = self.found.get(var)
        if match is None:
            super().visit(var, value)
            return
        request = Request(match.workload, FP32, FLOAT_BITS, self._features, self._threads)
        kernel = default_kernel(request)
        args = [self.lookup(source) for source in match.sources]
        out, dtype = kernel.buffers[-1]
        call = relax.call_tir(self.kernel(request, kernel.build), args, relax.TensorType(out, dtype))
        result = self.emit(call, var.name)
        if not match.transposed:
            result = self.emit(relax.op.permute_dims(result, (0, 2, 1, 3)), var.name)
        if shape_of(result) != shape_of(var):
            result = self.emit(relax.op.reshape(result, shape_of(var)), var.name)
        self.replace(var, result)

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return value
