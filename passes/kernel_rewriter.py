"""What the passes share that put kernels of our own in the place of Relax operators, on the way to LegalizeOps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import tvm
from tvm import relax

from tvm_mpq.passes.normalize.rewrite import Rewriter

_F = TypeVar("_F")


class KernelRewriter(Rewriter, Generic[_F]):
    """Rebuilds main with calls of PrimFuncs, one for each thing that is asked for.

    Parameters
    ----------
    features : frozenset[str]
        LLVM feature names of the target.
    threads : int
        Threads the kernels are laid out for.
    name : str
        That the PrimFuncs' names begin with.
    """

    found: Mapping[relax.Var, _F]
    """What there is to replace, by the variable that holds it; where nothing is, the module stays as it is."""

    def __init__(self, mod: tvm.IRModule, features: frozenset[str], threads: int, name: str) -> None:
        super().__init__(mod)
        self._features, self._threads, self._name = features, threads, name
        self._kernels: dict[Hashable, tvm.ir.GlobalVar] = {}

    def kernel(self, asked: Hashable, build: Callable[[], tvm.tir.PrimFunc]) -> tvm.ir.GlobalVar:
        """The PrimFunc for what is asked, built when it is asked for first."""
        if asked not in self._kernels:
            name = f"{self._name}_{len(self._kernels)}"
            self._kernels[asked] = self.builder.add_func(build().without_attr("global_symbol"), name)
        return self._kernels[asked]


def with_kernels(mod: tvm.IRModule, rewriter: Callable[[tvm.IRModule], KernelRewriter[Any]]) -> tvm.IRModule:
    """The module as the rewriter leaves it; itself where it has no main, or nothing to replace."""
    if "main" not in [gv.name_hint for gv in mod.get_global_vars()]:
        return mod
    made = rewriter(mod)
    return made.run() if made.found else mod
