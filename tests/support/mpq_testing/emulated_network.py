"""A whole network on an emulated machine: its kernels one after the other, each output in the memory of the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpq_testing.emulated import EmulatedMachine
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import Step, StoredValue

Array = npt.NDArray[Any]


class _Tensor:
    """The interpreter's tensor; views share its memory."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape = array.shape

    def _create_view(self, shape: tuple[int, ...]) -> _Tensor:
        return _Tensor(self.array.reshape(shape))


class _Notes:
    """Implements `execute.interpreter.Runtime`: notes the calls, to be made elsewhere all at once."""

    def __init__(self) -> None:
        self.needed: list[Kernel] = []
        self.calls: list[tuple[int, list[Array]]] = []  # place in `needed`, arguments

    def kernels(self, kernels: Sequence[Kernel]) -> list[Callable[..., None]]:
        first = len(self.needed)
        self.needed += kernels
        return [functools.partial(self._note, first + i) for i in range(len(kernels))]

    def _note(self, index: int, *arguments: _Tensor) -> None:
        self.calls.append((index, [a.array for a in arguments]))

    def float_nodes(self, nodes: Sequence[Node]) -> list[Callable[..., Any]]:
        raise AssertionError(f"operators without a template cannot be noted: {[n.name for n in nodes]}")

    def array(self, value: Array) -> _Tensor:
        return _Tensor(value.copy())

    def empty(self, shape: tuple[int, ...], dtype: str) -> _Tensor:
        return _Tensor(np.zeros(shape, dtype))


def run_network(
    machine: EmulatedMachine, graph: Graph, steps: Sequence[Step], inputs: dict[str, Array], core: str
) -> dict[StoredValue, Array]:
    """Every tensor that the network's kernels leave there, as stored."""
    notes = _Notes()
    interpreter = Interpreter(graph, notes)
    interpreter.prepare(steps)
    held = interpreter.run(steps, interpreter.load(inputs), tag="")
    library, names = machine.compile(notes.needed, core)
    machine.run(library, [(names[index], arrays) for index, arrays in notes.calls], core)
    return {value: tensor.array for value, tensor in held.items()}
