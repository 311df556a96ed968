"""The interpreter's code on a board: arrays stay there, and only what is asked for travels back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq import scratch
from tvm_mpq.execute.host_runtime import float_module
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.realize import finish
from tvm_mpq.targets.cross import export
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.devices.session_base import Session


class BoardArray:
    """A tensor on the board that behaves as the interpreter's tensors do, with a deadline on what travels."""

    def __init__(self, session: Session, tensor: Any) -> None:
        self._session = session
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.tensor.shape)

    def numpy(self) -> npt.NDArray[Any]:
        """Copy from the board."""
        return self._session.fetch(self.tensor)

    def _create_view(self, shape: tuple[int, ...]) -> BoardArray:
        return BoardArray(self._session, self.tensor._create_view(shape))


class BoardRuntime:
    """Implements `execute.interpreter.Runtime` on a session. It is worth nothing after the session's restart."""

    at_once = 1  # a connection carries one call at a time

    def __init__(
        self,
        session: Session,
        store: KernelStore,
        graph: Graph,
        target: tvm.target.Target,
        features: frozenset[str],
    ) -> None:
        self._session = session
        self._store = store
        self._graph = graph
        self._target = target
        self._features = features
        self._loaded: dict[tuple[int, int], Any] = {}

    def kernels(self, kernels: Sequence[Kernel]) -> list[Callable[..., None]]:
        return [self._function(self._module(path), symbol) for path, symbol in self._store.require(kernels)]

    def _module(self, path: Path) -> Any:
        """Several kernels share a library, under names of their own: it is sent once."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key not in self._loaded:
            self._loaded[key] = self._session.upload_module(path)
        return self._loaded[key]

    def _function(self, module: Any, symbol: str) -> Callable[..., None]:
        function = self._session.guarded(f"look-up of {symbol}", lambda: module[symbol])

        def run(*arguments: BoardArray) -> None:
            tensors = [a.tensor for a in arguments]
            self._session.guarded(f"call of {symbol}", lambda: function(*tensors))

        return run

    def float_nodes(self, nodes: Sequence[Node]) -> list[Callable[..., Any]]:
        session = self._session
        mod = finish(float_module(self._graph, nodes), self._features)
        with scratch.folder() as folder:
            path = Path(folder) / "float_nodes.so"
            export(tvm.compile(mod, target=self._target), path, self._store.linker)
            module = session.upload_module(path)
        machine = session.guarded("set-up of float operators", lambda: relax.VirtualMachine(module, session.device))
        return [self._float_node(machine, f"float_{i}") for i in range(len(nodes))]

    def _float_node(self, machine: Any, name: str) -> Callable[..., Any]:
        def run(*arguments: BoardArray) -> BoardArray:
            tensors = [a.tensor for a in arguments]

            def invoke() -> Any:
                # The machine takes tensors of a connection only in this way.
                machine.set_input(name, *tensors)
                machine.invoke_stateful(name)
                return machine.get_outputs(name)

            return BoardArray(self._session, self._session.guarded(f"call of {name}", invoke))

        return run

    def array(self, value: npt.NDArray[Any]) -> BoardArray:
        return BoardArray(self._session, self._session.array(np.asarray(value)))

    def empty(self, shape: tuple[int, ...], dtype: str) -> BoardArray:
        session = self._session
        device = session.device
        tensor = session.guarded("space on the board", lambda: tvm.runtime.empty(shape, dtype, device))
        return BoardArray(session, tensor)
