"""Reading `main` as a list of bindings and writing a new one: what every pass of Normalize is built on.

A pass derives from `Rewriter` and overrides `rewrite`. Names of variables survive, dead bindings do not, tuples are
seen through, and the module given is never changed.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.checks import refusing
from tvm_mpq.frontends.naming import operator_of
from tvm_mpq.passes.normalize.exprs import shape_of

OUTPUT = -1
"""In `Rewriter.uses`: the use as a result of main."""


def main_function(mod: tvm.IRModule) -> relax.Function:
    """`main` of the module. Raises UnsupportedModelError when there is none, or it is no sequence of bindings."""
    if "main" not in [gv.name_hint for gv in mod.get_global_vars()]:
        raise UnsupportedModelError("the module has no function `main`; name the network's function so")
    main = mod["main"]
    if not isinstance(main, relax.Function):
        raise UnsupportedModelError(f"main must be a Relax function (got {type(main).__name__})")
    for param in main.params:
        if isinstance(param.ty, relax.TensorType) and shape_of(param) is None:
            raise UnsupportedModelError(
                f"input {param.name!r} has no static shape (got {param.ty}); give the importer fixed input shapes"
            )
    return main


class Rewriter:
    """Rebuild main binding by binding, in order.

    `rewrite(var, value)` gets the old variable and the value with its operands already replaced, and returns the new
    expression (any operators it needs on the way it emits with `emit`), or a variable to stand for the old one.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.main = main_function(mod)
        self.builder = relax.BlockBuilder(mod)  # copies on write
        self.bindings: list[tuple[relax.Var, relax.Expr]] = []
        self.value: dict[relax.Var, relax.Expr] = {}
        self.index: dict[relax.Var, int] = {}
        self.uses: dict[relax.Var, list[int]] = {}
        self._replaced: dict[relax.Var, relax.Expr] = {}
        self._emitted: list[tuple[relax.Var, relax.Expr]] = []
        self._defined: dict[relax.Var, relax.Expr] = {}
        self._read()

    def run(self) -> tvm.IRModule:
        """The module with the new main."""
        for var, value in self.bindings:
            with refusing(f"{operator_of(value) or 'tensor'} {var.name!r} cannot be brought into normal form"):
                self.visit(var, value)
        return self._finish(self.remap(self.result))

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        self.replace(var, self.emit(self.rewrite(var, self.remap(value)), var.name))

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        raise NotImplementedError

    def replace(self, old: relax.Var, new: relax.Expr) -> None:
        """From here on `new` stands for `old`."""
        self._replaced[old] = new

    def lookup(self, var: relax.Var) -> relax.Expr:
        """What stands for an old variable."""
        return self._replaced.get(var, var)

    def definition(self, new: relax.Expr) -> Any:
        """The expression a new variable was emitted with, or None."""
        return self._defined.get(new) if isinstance(new, relax.Var) else None

    def emit(self, expr: relax.Expr, name: str) -> relax.Expr:
        """Bind an expression to a new variable; variables, constants and tuples are returned as they are."""
        if not isinstance(expr, relax.Call | relax.TupleGetItem):
            return expr
        expr = self.builder.normalize(expr)
        var = relax.DataflowVar(name, expr.ty)
        self._emitted.append((var, expr))
        self._defined[var] = expr
        return var

    def remap(self, expr: relax.Expr) -> relax.Expr:
        """The expression with new operands; tuples of known fields are seen through."""
        if isinstance(expr, relax.Var):
            return self.lookup(expr)
        if isinstance(expr, relax.Tuple):
            fields = [self.remap(f) for f in expr.fields]
            return expr if _same(fields, list(expr.fields)) else relax.Tuple(fields)
        if isinstance(expr, relax.TupleGetItem):
            source = self.remap(expr.tuple_value)
            known = isinstance(source, relax.Tuple)
            return source.fields[expr.index] if known else relax.TupleGetItem(source, expr.index)
        if isinstance(expr, relax.Call):
            args = [self.remap(a) for a in expr.args]
            return expr if _same(args, list(expr.args)) else relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        return expr

    def only_use(self, var: relax.Var) -> int | None:
        """The index of the one binding that uses an old variable; None when there are more, or main returns it."""
        uses = set(self.uses.get(var, ()))
        return uses.pop() if len(uses) == 1 and OUTPUT not in uses else None

    def _read(self) -> None:
        body = self.main.body
        blocks = body.blocks if isinstance(body, relax.SeqExpr) else []
        aliases: dict[relax.Var, relax.Expr] = {}
        for block in blocks:
            for binding in block.bindings:
                var, value = binding.var, binding.value
                if isinstance(value, relax.If):
                    raise UnsupportedModelError("main has control flow (an `if`); only straight networks are supported")
                if isinstance(binding, relax.MatchCast) and shape_of(var) != shape_of(value):
                    raise UnsupportedModelError(f"tensor {var.name!r} has no static shape; fix the input shapes")
                if isinstance(value, relax.Var):
                    aliases[var] = value
                self.bindings.append((var, value))
                self.value[var] = value
        self.result = self._expand(body.body if isinstance(body, relax.SeqExpr) else body, aliases)
        for i, (var, value) in enumerate(self.bindings):
            self.index[var] = i
            for used in _variables(value):
                self.uses.setdefault(used, []).append(i)
        for used in _variables(self.result):
            self.uses.setdefault(used, []).append(OUTPUT)

    def _expand(self, result: relax.Expr, aliases: dict[relax.Var, relax.Expr]) -> relax.Expr:
        """Main's result with aliases and tuple variables resolved, so that only tensors count as outputs."""
        while result in aliases:
            result = aliases[result]
        value = self.value.get(result) if isinstance(result, relax.Var) else result
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._expand(f, aliases) for f in value.fields])
        return result

    def _finish(self, result: relax.Expr) -> tvm.IRModule:
        live = set(_variables(result))
        kept: list[tuple[relax.Var, relax.Expr]] = []
        for var, value in reversed(self._emitted):
            if var in live:
                live.update(_variables(value))
                kept.append((var, value))
        kept.reverse()
        if isinstance(result, relax.Tuple):
            result = self.builder.normalize(result)
            out = relax.Var("gv", result.ty)
            kept.append((out, result))
        elif isinstance(result, relax.Var) and result in self._defined:
            kept, out = _as_output(kept, result)
        else:
            out = result
        bindings = [relax.VarBinding(v, e) for v, e in kept]
        body = relax.SeqExpr([relax.DataflowBlock(bindings)] if bindings else [], out)
        attrs = self.main.attrs
        function = relax.Function(self.main.params, body, self.main.ret_ty, self.main.is_pure, attrs)
        self.builder.update_func(self.builder.get().get_global_var("main"), self.builder.normalize(function))
        return self.builder.finalize()


def _as_output(
    kept: list[tuple[relax.Var, relax.Expr]], result: relax.Var
) -> tuple[list[tuple[relax.Var, relax.Expr]], relax.Var]:
    """Variables that leave a dataflow block must not be dataflow variables: replace this one everywhere."""
    out = relax.Var(result.name, result.ty)

    def swap(expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Var):
            return out if expr.same_as(result) else expr
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([swap(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(swap(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call) and result in set(_variables(expr)):
            return relax.Call(expr.op, [swap(a) for a in expr.args], expr.attrs, expr.ty_args)
        return expr

    builder = relax.BlockBuilder()
    renamed = [(out if v.same_as(result) else v, builder.normalize(swap(e))) for v, e in kept]
    return renamed, out


def _variables(expr: relax.Expr) -> list[relax.Var]:
    """Variables that an expression uses, once each."""
    found: dict[relax.Var, None] = {}

    def walk(e: relax.Expr) -> None:
        if isinstance(e, relax.Var):
            found[e] = None
        elif isinstance(e, relax.Tuple):
            for f in e.fields:
                walk(f)
        elif isinstance(e, relax.TupleGetItem):
            walk(e.tuple_value)
        elif isinstance(e, relax.Call):
            for a in e.args:
                walk(a)

    walk(expr)
    return list(found)


def _same(a: list[relax.Expr], b: list[relax.Expr]) -> bool:
    return all(x.same_as(y) for x, y in zip(a, b, strict=True))
