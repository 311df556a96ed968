"""Importers write some operators as loop nests; turn those back into Relax operators.

    call_tir(pad, (x,))            ->  nn.pad(x, ...)         constant padding
    call_tir(maximum, (x, c))      ->  maximum(x, c)          also minimum, and a bound compiled into the loops

A loop nest is recognised by building the operator anew and comparing both structurally, never by its name.
Stands first. Leaves every other `call_tir` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx, topi

from tvm_mpq.passes.normalize.exprs import dtype_of, op_name, shape_of
from tvm_mpq.passes.normalize.rewrite import Rewriter


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.LiftHelpers")
class LiftHelpers:
    """Loop nests of `pad`, `maximum` and `minimum` become operators again."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


class _Rewriter(Rewriter):
    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if op_name(value) != "relax.call_tir" or not isinstance(value.args[1], relax.Tuple):
            return value
        func = self.mod[value.args[0]]
        args = list(value.args[1].fields)
        if not isinstance(func, tirx.PrimFunc) or not args or any(shape_of(a) is None for a in args):
            return value
        for candidate, build, operands in self._candidates(func, args, var):
            if _builds(build, operands, func):
                return candidate
        return value

    def _candidates(
        self, func: tirx.PrimFunc, args: list[relax.Expr], var: relax.Var
    ) -> Iterator[tuple[relax.Expr, Callable[..., Any], list[Any]]]:
        """Operators that this loop nest may be, with what builds their loops."""
        store = _Store(func)
        x = args[0]
        for operator, build in ((relax.op.maximum, topi.maximum), (relax.op.minimum, topi.minimum)):
            if len(args) == 2:
                yield operator(x, args[1]), build, args
            elif len(args) == 1 and len(store.floats) == 1:
                value = store.floats[0]
                yield operator(x, relax.const(value, dtype_of(x))), build, [x, value]
        padding = store.padding(shape_of(x) or (), shape_of(var) or ())
        if len(args) == 1 and padding is not None:
            before, after = padding
            width = [w for pair in zip(before, after, strict=True) for w in pair]
            fill = store.floats[0] if store.floats else 0.0
            yield relax.op.nn.pad(x, width, "constant", fill), topi.nn.pad, [x, before, after, fill]


class _Store:
    """What a loop nest with one store holds: the float immediates and the loads of the stored value."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self.floats: list[float] = []
        self.loads: list[Any] = []
        node = func.body
        while isinstance(node, tirx.For | s_tir.SBlockRealize):
            node = node.body if isinstance(node, tirx.For) else node.block.body
        if isinstance(node, tirx.BufferStore):
            self._walk(node.value)

    def _walk(self, node: Any) -> None:
        if isinstance(node, tirx.FloatImm):
            self.floats.append(float(node.value))
        elif isinstance(node, tvm.ir.TensorLoad):
            self.loads.append(node)
        elif isinstance(node, tirx.Max | tirx.Min):
            self._walk(node.a)
            self._walk(node.b)
        elif isinstance(node, tvm.ir.Call):
            for arg in node.args:
                self._walk(arg)

    def padding(self, source: tuple[int, ...], target: tuple[int, ...]) -> tuple[list[int], list[int]] | None:
        """Padding before and after each axis, read from the offsets of the only load: `A[i - before, ...]`."""
        if len(self.loads) != 1 or len(self.loads[0].indices) != len(target) or len(source) != len(target):
            return None
        before = []
        for index in self.loads[0].indices:
            offset = index.b if isinstance(index, tirx.Sub) else 0
            if not isinstance(offset, int | tirx.IntImm):
                return None
            before.append(int(offset))
        after = [t - s - b for s, t, b in zip(source, target, before, strict=True)]
        return (before, after) if all(a >= 0 for a in after) else None


def _builds(build: Callable[..., Any], operands: list[Any], func: tirx.PrimFunc) -> bool:
    """True when building the operator gives the same loop nest."""
    builder = relax.BlockBuilder()
    operands = [relax.Var("x", o.ty) if isinstance(o, relax.Expr) else o for o in operands]
    try:
        with builder.testing_scope(def_vars=[]):
            builder.call_te(build, *operands)
    except tvm.error.InternalError:  # operands of these shapes are not the operator's
        return False
    built = [f for f in builder.get().functions.values() if isinstance(f, tirx.PrimFunc)]
    return len(built) == 1 and bool(tvm_ffi.structural_equal(_bare(built[0]), _bare(func)))


def _bare(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.without_attr("global_symbol") if func.attrs and "global_symbol" in func.attrs else func
