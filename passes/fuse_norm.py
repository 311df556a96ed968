"""Layer normalisation becomes one kernel, with the boundaries around it.

    [dequantize ->] layer_norm [-> quantize]      ->      call_tir(layer_norm, x, ...)

Stands on a realized network before LegalizeOps. Leaves alone normalisation over several axes and without weights.
"""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm import relax

from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.passes.kernel_rewriter import KernelPass, KernelRewriter
from tvm_mpq.passes.normalize.exprs import axis_list, dtype_of, is_constant, op_name, shape_of
from tvm_mpq.schema import FLOAT_BITS, FP32, W8A8, NormWorkload, padded_channels

_BOUNDARY = re.compile(r"convert\(shape=[\dx]+,from_bits=(\d+),to_bits=(\d+),channels_first=False\)")


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FuseNorm")
class FuseNorm(KernelPass):
    """Replace layer normalisation in `main` by one PrimFunc for each of its shapes.

    Parameters
    ----------
    features, threads
        As of `KernelPass`.
    kernel_attr : str
        The attribute by which PrimFuncs of the kernel table are known; its value is the request's key.
    """

    def __init__(self, *, features: frozenset[str], threads: int, kernel_attr: str) -> None:
        super().__init__(features=features, threads=threads)
        self._kernel_attr = kernel_attr

    def rewriter(self, mod: tvm.IRModule) -> _Rewriter:
        return _Rewriter(mod, self._features, self._threads, self._kernel_attr)


class _Rewriter(KernelRewriter[relax.Expr]):
    def __init__(self, mod: tvm.IRModule, features: frozenset[str], threads: int, kernel_attr: str) -> None:
        super().__init__(mod, features, threads, "layer_norm")
        self._kernel_attr = kernel_attr
        self.found = {var: value for var, value in self.bindings if op_name(value) == "relax.nn.layer_norm"}
        self._quantized: set[relax.Var] = set()  # boundaries that a normalisation before them has swallowed

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var in self._quantized:
            return
        if op_name(value) != "relax.nn.layer_norm" or not self._normalize(var, value):
            super().visit(var, value)

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return value

    def _normalize(self, var: relax.Var, value: relax.Call) -> bool:
        data, gamma, beta = value.args
        shape = shape_of(var)
        if shape is None or dtype_of(var) != "float32" or axis_list(value.attrs.axes, len(shape)) != (len(shape) - 1,):
            return False
        if not (is_constant(gamma) and is_constant(beta)):
            return False
        unpadded = padded_channels(shape[-1]) == shape[-1]
        before = self._boundary(data, to_float=True) if unpadded else None
        user = self.only_use(var) if unpadded else None
        after = self._boundary(self.bindings[user][0], to_float=False) if user is not None else None
        args = [self.remap(data), gamma, beta] if before is None else [*map(self.remap, before), gamma, beta]
        if after is not None:
            args += after[1:]
        precision = FP32 if before is None else W8A8  # bytes of any bits: where they end is in the boundary's numbers
        out_bits = FLOAT_BITS if after is None else W8A8.activation_bits
        workload = NormWorkload(shape, float(value.attrs.epsilon))
        request = Request(workload, precision, out_bits, self._features, self._threads)
        kernel = default_kernel(request)
        out, dtype = kernel.buffers[-1]
        result = self.emit(
            relax.call_tir(self.kernel(request, kernel.build), args, relax.TensorType(out, dtype)), var.name
        )
        end = var
        if after is not None and user is not None:
            end = self.bindings[user][0]
            self._quantized.add(end)
        self.replace(end, result)
        return True

    def _boundary(self, var: relax.Expr, *, to_float: bool) -> list[Any] | None:
        """The arguments x, q, f of the boundary kernel whose result is `var`."""
        value = self.value.get(var) if isinstance(var, relax.Var) else None
        if op_name(value) != "relax.call_tir" or value is None:
            return None
        attrs = self.mod[value.args[0]].attrs
        found = _BOUNDARY.match(str(attrs[self._kernel_attr])) if attrs and self._kernel_attr in attrs else None
        if found is None:
            return None
        bits = int(found[1]), int(found[2])
        right = bits[0] < FLOAT_BITS == bits[1] if to_float else bits[0] == FLOAT_BITS > bits[1]
        return list(value.args[1].fields) if right else None
