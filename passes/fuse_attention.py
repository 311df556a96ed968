"""Attention becomes one kernel that reads queries, keys and values where a linear layer left them.

    reshape, transpose, slice -> q, k, v
    matmul(softmax(scale * matmul(q, transpose(k))), v) -> transpose      ->      call_tir(attention, linear's result)

The scale may stand on either operand or behind the product. Stands on a realized network before LegalizeOps. Leaves
alone attention with a mask, scores that somebody else reads too, and operands that are no strided views.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from tvm_mpq.kernels import Request, default_kernel, fitting
from tvm_mpq.passes.normalize.exprs import axis_list, dtype_of, number, op_name, shape_of
from tvm_mpq.passes.normalize.rewrite import Rewriter
from tvm_mpq.passes.views import View, view_of
from tvm_mpq.schema import FLOAT_BITS, FP32, AttentionWorkload


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FuseAttention")
class FuseAttention:
    """Replace attention in `main` by one PrimFunc for each of its shapes.

    Parameters
    ----------
    features : frozenset[str]
        LLVM feature names of the target.
    threads : int
        Threads the kernels are laid out for.
    """

    def __init__(self, *, features: frozenset[str] = frozenset(), threads: int = 1) -> None:
        self._features, self._threads = features, threads

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        if "main" not in [gv.name_hint for gv in mod.get_global_vars()]:
            return mod
        rewriter = _Rewriter(mod, self._features, self._threads)
        return rewriter.run() if rewriter.found else mod


@dataclass(frozen=True)
class _Found:
    """One attention; `end` is its result, or the transposition of that to [batch, row, head, feature]."""

    request: Request
    sources: tuple[relax.Var, ...]
    end: relax.Var
    transposed: bool


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule, features: frozenset[str], threads: int) -> None:
        super().__init__(mod)
        self._features, self._threads = features, threads
        self._kernels: dict[Request, tvm.ir.GlobalVar] = {}
        matches = (self._find(var, value) for var, value in self.bindings)
        self.found = {match.end: match for match in matches if match is not None}

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        match = self.found.get(var)
        if match is None:
            super().visit(var, value)
            return
        kernel = default_kernel(match.request)
        if match.request not in self._kernels:
            func = kernel.build().without_attr("global_symbol")
            self._kernels[match.request] = self.builder.add_func(func, f"attention_{len(self._kernels)}")
        args = [self.lookup(source) for source in match.sources]
        out, dtype = kernel.buffers[-1]
        call = relax.call_tir(self._kernels[match.request], args, relax.TensorType(out, dtype))
        result = self.emit(call, var.name)
        if not match.transposed:
            result = self.emit(relax.op.permute_dims(result, (0, 2, 1, 3)), var.name)
        if shape_of(result) != shape_of(var):
            result = self.emit(relax.op.reshape(result, shape_of(var)), var.name)
        self.replace(var, result)

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return value

    def _value(self, expr: relax.Expr) -> relax.Expr | None:
        return self.value.get(expr) if isinstance(expr, relax.Var) else None

    def _inner(self, expr: relax.Expr) -> relax.Expr | None:
        """The value of a variable that nobody else reads."""
        alone = isinstance(expr, relax.Var) and self.only_use(expr) is not None
        return self._value(expr) if alone else None

    def _find(self, var: relax.Var, value: relax.Expr) -> _Found | None:
        if op_name(value) != "relax.matmul" or dtype_of(var) != "float32":
            return None
        weights = self._inner(value.args[0])
        if op_name(weights) != "relax.nn.softmax" or weights is None:
            return None
        rank = len(shape_of(var) or ())
        if rank not in (3, 4) or int(weights.attrs.axis) % rank != rank - 1:
            return None
        scores, scale = self._scaled(weights.args[0])
        product = self._inner(scores)
        if op_name(product) != "relax.matmul" or product is None:
            return None
        left, left_scale = self._scaled(product.args[0])
        right, right_scale = self._scaled(product.args[1])
        scale *= left_scale * right_scale
        views = [self._view(expr, rank) for expr in (left, right, value.args[1])]
        q, k, v = views
        if q is None or k is None or v is None or scale <= 0:
            return None
        return self._checked(var, q, k.permuted((0, 1, 3, 2)), v, scale)

    def _scaled(self, expr: relax.Expr) -> tuple[relax.Expr, float]:
        """expr = factor * what is returned first."""
        value = self._value(expr)
        if value is None or op_name(value) not in ("relax.multiply", "relax.divide"):
            return expr, 1.0
        x, factor = value.args[0], number(value.args[1])
        if factor is None and op_name(value) == "relax.multiply":
            x, factor = value.args[1], number(value.args[0])
        if not factor or shape_of(x) != shape_of(expr):
            return expr, 1.0
        inner, more = self._scaled(x)
        return inner, more * (factor if op_name(value) == "relax.multiply" else 1.0 / factor)

    def _view(self, expr: relax.Expr, rank: int) -> View | None:
        """As [batch, head, row, feature]; three axes have one batch."""
        view = view_of(expr, self.value.get)
        if view is None or len(view.shape) != rank or dtype_of(view.root) != "float32":
            return None
        return view if rank == 4 else View(view.root, view.offset, (1, *view.shape), (0, *view.strides))

    def _checked(self, var: relax.Var, q: View, k: View, v: View, scale: float) -> _Found | None:
        batch, heads, queries, features = q.shape
        keys, outputs = v.shape[2:]
        if k.shape != (batch, heads, keys, features) or v.shape[:2] != (batch, heads):
            return None  # operands that are broadcast
        sources = tuple(dict.fromkeys(view.root for view in (q, k, v)))
        shapes = tuple(shape_of(source) or () for source in sources)
        places = [(sources.index(x.root), x.offset, *x.strides) for x in (q, k, v)]
        workload = AttentionWorkload(batch, heads, queries, keys, features, outputs, scale, shapes, *places)
        request = Request(workload, FP32, FLOAT_BITS, self._features, self._threads)
        if not fitting(request):
            return None
        user = self.only_use(var)
        if user is not None:
            end, value = self.bindings[user]
            rank = len(shape_of(var) or ())
            swap = (0, 2, 1, 3) if rank == 4 else (1, 0, 2)
            turned = op_name(value) == "relax.permute_dims" and value.attrs.axes is not None
            if turned and axis_list(value.attrs.axes, rank) == swap:
                return _Found(request, sources, end, True)
        return _Found(request, sources, var, False)
