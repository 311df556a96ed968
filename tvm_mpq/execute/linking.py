"""A network's library from kernels that are compiled already: their object files are linked in, not compiled again.

Lowering and LLVM take 15 s for the kernels of MobileNetV2, and every plan that is built would pay them again, though
its kernels were compiled to be measured. Without them a network takes half a second, and what was measured is what is
shipped, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.relax import vm_build
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_mpq.passes.realize import KERNEL_ATTR
from tvm_mpq.tuning.compile.kernel_store import KernelStore

EXEC_MODE = "compiled"
"""The virtual machine's main function as machine code: a call costs about half of what the interpreter takes."""

SYMBOL_PREFIX = "__tvm_ffi_"
"""Of a function's symbol in a library, before the name that TVM calls it by."""

_MAIN = "__vmtir__"
"""Of the names of Relax functions once they are loop-free TIR."""


@dataclass(frozen=True)
class Linked:
    """A module without the functions that are compiled already, and where these are.

    Attributes
    ----------
    mod : tvm.IRModule
        Calls them by their names in the objects.
    symbols : mapping of str to str
        The function's name in the module it came from, to its name there.
    objects : tuple of path
        What the library must be linked with.
    """

    mod: tvm.IRModule
    symbols: Mapping[str, str]
    objects: tuple[Path, ...]


def linked(mod: tvm.IRModule, store: KernelStore) -> Linked:
    """A realized module, with all that the store holds taken out of it."""
    symbols: dict[tvm.ir.GlobalVar, str] = {}
    objects: dict[str, Path] = {}
    for var in _called_plainly(mod):
        if (held := store.object_of(_as_compiled(mod[var]))) is not None:
            objects[held[1]], symbols[var] = held
    caller = _ByName(mod, symbols)
    left = {
        var: caller.visit_expr(func) if isinstance(func, relax.Function) else func
        for var, func in mod.functions_items()
        if var not in symbols
    }
    module = tvm.IRModule(left, attrs=mod.attrs, global_infos=mod.global_infos)
    names = {str(var.name_hint): symbol for var, symbol in symbols.items()}
    return Linked(module, names, tuple(objects.values()))


def compile_linked(network: Linked, target: tvm.target.Target) -> tvm.runtime.Executable:
    """What `relax.build` makes of the module in its mode `EXEC_MODE`, with direct calls of the functions left out.

    `relax.build` itself would look them up at every call, among the functions that Python registered.
    """
    with target:
        mod = relax.get_pipeline("default")(network.mod)
    builder = relax.ExecBuilder()
    left = vm_build._vmcodegen(builder, mod, EXEC_MODE)
    known = set(network.symbols.values())
    functions = {
        var: _with_direct_calls(func, known) if var.name_hint.startswith(_MAIN) else func
        for var, func in left.functions_items()
        if isinstance(func, tvm.tirx.PrimFunc)
    }
    return vm_build._vmlink(builder, target, tvm.IRModule(functions, attrs=left.attrs))


def _called_plainly(mod: tvm.IRModule) -> list[tvm.ir.GlobalVar]:
    """The functions that Relax calls by `call_tir` on tensors, and in no other way."""
    plain: Counter[tvm.ir.GlobalVar] = Counter()
    uses: Counter[tvm.ir.GlobalVar] = Counter()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, tvm.ir.GlobalVar):
            uses[expr] += 1
        elif isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.call_tir") and len(expr.args) == 2:
            plain[expr.args[0]] += 1

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    # What only changes a shape becomes a view, where Relax sees it.
    return [v for v, n in plain.items() if uses[v] <= n and not relax.analysis.has_reshape_pattern(mod[v])]


def _as_compiled(func: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """A kernel as its row builds it; other functions are compiled as they stand in the module."""
    return func.without_attr(KERNEL_ATTR)


@mutator
class _ByName(PyExprMutator):
    """Calls of functions that are elsewhere, by name instead of by variable."""

    def __init__(self, mod: tvm.IRModule, symbols: Mapping[tvm.ir.GlobalVar, str]) -> None:
        super().__init__(mod)
        self._symbols = symbols

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if call.op != tvm.ir.Op.get("relax.call_tir") or call.args[0] not in self._symbols:
            return call
        function = relax.ExternFunc(self._symbols[call.args[0]])
        return relax.Call(tvm.ir.Op.get("relax.call_dps_packed"), [function, call.args[1]], call.attrs, call.ty_args)


def _with_direct_calls(main: tvm.tirx.PrimFunc, known: set[str]) -> tvm.tirx.PrimFunc:
    """Where a Relax function calls one of these by name, a call of the symbol itself.

    TVM's code generator declares a symbol of exactly the name given, and looks for one with the prefix before that. So
    the first call of a function names its symbol, and the later ones its name, by which the first one's is found.
    """
    declared: set[str] = set()
    by_name = tvm.ir.Op.get("tirx.anylist_setitem_call_packed")

    def direct(statement: Any) -> Any:
        if isinstance(statement, tvm.tirx.SeqStmt):
            return tvm.tirx.SeqStmt([direct(inner) for inner in statement.seq])
        call: Any = getattr(statement, "value", None)
        if getattr(call, "op", None) != by_name or call.args[2].value not in known:
            return statement
        name = str(call.args[2].value)
        symbol = name if name in declared else SYMBOL_PREFIX + name
        declared.add(name)
        arguments = [call.args[0], call.args[1], symbol, *list(call.args)[3:]]
        return tvm.tirx.Evaluate(tvm.tirx.op.anylist_setitem_call_cpacked(*arguments))

    return main.with_body(direct(main.body))
