"""What the passes share that put kernels of our own in the place of Relax operators, on the way to LegalizeOps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import tvm
from tvm import relax

from tvm_mpq.passes.normalize.rewrite import Rewriter

_F = TypeVar("_F")


class KernelRewriter(Rewriter, Generic[_F]):
    """Rebuilds main with calls of PrimFuncs, one for each thing that is asked for.

    features, threads: as of `KernelPass`. name: that the PrimFuncs' names begin with.
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


class KernelPass(ABC):
    """What a module pass does that has such a rewriter: nothing where main is missing, or nothing is to be replaced.

    Parameters
    ----------
    features : frozenset[str]
        LLVM feature names of the target.
    threads : int
        Threads the kernels are laid out for.
    """

    def __init__(self, *, features: frozenset[str] = frozenset(), threads: int = 1) -> None:
        self._features, self._threads = features, threads

    @abstractmethod
    def rewriter(self, mod: tvm.IRModule) -> KernelRewriter[Any]:
        """For a module with a main."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        if "main" not in [gv.name_hint for gv in mod.get_global_vars()]:
            return mod
        rewriter = self.rewriter(mod)
        return rewriter.run() if rewriter.found else mod
