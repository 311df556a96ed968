"""Where the interpreter's code runs: compiled kernels and float bindings in this process, on the host's CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.realize import CarriedLoopNests, finish, substitute
from tvm_mpq.tuning.compile.kernel_store import KernelStore


class HostRuntime:
    """Implements `execute.interpreter.Runtime` on this machine. threads: that a kernel runs in."""

    def __init__(
        self, store: KernelStore, graph: Graph, target: tvm.target.Target, features: frozenset[str], threads: int = 1
    ) -> None:
        self._store = store
        self._graph = graph
        self._target = target
        self._features = features
        self._loaded: dict[str, tvm.runtime.Module] = {}
        self.at_once = max(1, len(os.sched_getaffinity(0)) // threads)

    def kernels(self, kernels: Sequence[Kernel]) -> list[Callable[..., None]]:
        functions = []
        for path, symbol in self._store.require(kernels):
            if path.name not in self._loaded:
                self._loaded[path.name] = tvm.runtime.load_module(str(path))
            functions.append(self._loaded[path.name][symbol])
        return functions

    def float_nodes(self, nodes: Sequence[Node]) -> list[Callable[..., Any]]:
        mod = finish(float_module(self._graph, nodes), self._features)
        machine = relax.VirtualMachine(tvm.compile(mod, target=self._target), tvm.cpu())
        return [machine[f"float_{i}"] for i in range(len(nodes))]

    def array(self, value: npt.NDArray[Any]) -> Any:
        return tvm.runtime.tensor(np.asarray(value, order="C"))

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return tvm.runtime.empty(shape, dtype)


def float_module(graph: Graph, nodes: Sequence[Node]) -> tvm.IRModule:
    """One Relax function `float_<i>` per node, from its graph inputs to its result."""
    builder = relax.BlockBuilder()
    loop_nests = CarriedLoopNests(graph, builder)
    for i, node in enumerate(nodes):
        assert node.binding is not None
        used = {graph.var_names[v]: v for v in relax.analysis.free_vars(node.binding.value) if v in graph.var_names}
        params = {name: relax.Var(f"x{k}", used[name].ty) for k, name in enumerate(node.inputs)}

        def replace(var: relax.Var, params: dict[str, relax.Var] = params) -> relax.Expr:
            return params[graph.var_names[var]] if var in graph.var_names else var

        with builder.function(f"float_{i}", list(params.values())):
            with builder.dataflow():
                result = builder.emit_output(substitute(node.binding.value, replace, loop_nests))
            builder.emit_func_output(result)
    return builder.get()
