"""Runs lowered steps one by one with the compiled kernels: every tensor can be seen, any operator swapped.

This is the network that Realize would build, without building it: calibration reads its tensors, sensitivity changes
one operator of it, and the end-to-end check of candidate plans asks it for outputs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import (
    FloatStep,
    KernelStep,
    ReshapeStep,
    Step,
    StoredValue,
    made_by,
    stored_shape,
    value_bytes,
)
from tvm_mpq.schema import FLOAT_BITS

_T = TypeVar("_T")
_R = TypeVar("_R")

Values = dict[StoredValue, Any]  # runtime tensors

Sample = dict[str, npt.NDArray[np.float32]]
"""Input name to its array: what one run of the network takes."""

MEMORY_BYTES = 2 << 30
"""What the buffers of all runs that go on at the same time may take together, should there be several."""


class Runtime(Protocol):
    """What the interpreter needs of the place where code runs."""

    @property
    def at_once(self) -> int:
        """How many runs may go on at the same time, in threads."""

    def kernels(self, kernels: Sequence[Kernel]) -> list[Callable[..., None]]:
        """Compiled kernels, called with all buffers, the output last."""

    def float_nodes(self, nodes: Sequence[Node]) -> list[Callable[..., Any]]:
        """Compiled float bindings, called with their inputs, returning the result."""

    def array(self, value: Array) -> Any: ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any: ...


class Interpreter:
    """Executes steps of one graph on one runtime; compiled code and packed constants are kept between runs."""

    def __init__(self, graph: Graph, runtime: Runtime) -> None:
        self._graph = graph
        self._runtime = runtime
        self._functions: dict[tuple[str, str, str], Callable[..., None]] = {}
        self._floats: dict[str, Callable[..., Any]] = {}
        self._constants: dict[tuple[object, ...], list[Any]] = {}
        self._buffers: dict[str, dict[tuple[StoredValue, tuple[int, ...]], Any]] = {}  # by tag
        self._shapes: dict[tuple[str, str, str], list[tuple[int, ...]]] = {}
        self._machine = threading.Lock()  # TVM's virtual machine, which runs float operators, does one thing at a time

    def prepare(self, steps: Iterable[Step]) -> None:
        """Compile whatever these steps need and is not compiled yet."""
        kernels: dict[tuple[str, str, str], Kernel] = {}
        nodes: dict[str, Node] = {}
        for step in steps:
            if isinstance(step, KernelStep) and step.kernel.key not in self._functions:
                kernels[step.kernel.key] = step.kernel
            elif isinstance(step, FloatStep) and step.node.name not in self._floats:
                nodes[step.node.name] = step.node
        if kernels:
            compiled = self._runtime.kernels(list(kernels.values()))
            self._functions.update(zip(kernels, compiled, strict=True))
        for key, kernel in kernels.items():
            self._shapes[key] = [shape for shape, _ in kernel.buffers]
        if nodes:
            self._floats.update(zip(nodes, self._runtime.float_nodes(list(nodes.values())), strict=True))

    def pack(self, steps: Iterable[Step]) -> None:
        """Have the constants of these steps, which were prepared, at hand."""
        for step in steps:
            if isinstance(step, KernelStep):
                self._packed(step, step.kernel.key)

    def load(self, inputs: dict[str, Array]) -> Values:
        """The network's inputs, one sample, as runtime tensors."""
        return {StoredValue(name, FLOAT_BITS): self.array(x) for name, x in inputs.items()}

    def run(self, steps: Iterable[Step], values: Values, *, tag: str) -> Values:
        """Execute `steps` on top of `values`; returns a new mapping that holds both.

        Results live in buffers named by `tag` and are overwritten by the next run of the same tag.
        """
        held = dict(values)
        for step in steps:
            if isinstance(step, KernelStep):
                held[step.output] = self._run_kernel(step, held, tag)
            elif isinstance(step, ReshapeStep):
                held[step.output] = held[step.input]._create_view(stored_shape(self._graph, step.output))
            else:
                arguments = [held[StoredValue(t, FLOAT_BITS)] for t in step.node.inputs]
                with self._machine:
                    held[StoredValue(step.node.output, FLOAT_BITS)] = self._floats[step.node.name](*arguments)
        return held

    def each(self, work: Callable[[_T, str], _R], items: Sequence[_T], lane_bytes: int = 0) -> list[_R]:
        """work(item, lane) of every item, in their order; several at once where the runtime and memory allow it.

        lane: a name for tags, which no work that goes on meanwhile has. lane_bytes: what all work in one lane leaves in
        buffers.
        """
        lanes = min(self._runtime.at_once, len(items), max(1, MEMORY_BYTES // max(1, lane_bytes)))
        if lanes < 2:
            return [work(item, "") for item in items]
        free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for lane in range(lanes):
            free.put(str(lane))

        def one(item: _T) -> _R:
            lane = free.get()
            try:
                return work(item, lane)
            finally:
                free.put(lane)

        futures = [_threads(self._runtime.at_once).submit(one, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:  # after Ctrl-C too: what has begun writes into this interpreter's buffers
            for future in futures:
                future.cancel()
            wait(futures)

    def lane_bytes(self, steps: Iterable[Step]) -> int:
        """What the results of these steps take together under one tag."""
        made = {made_by(step) for step in steps if not isinstance(step, ReshapeStep)}
        return sum(value_bytes(self._graph, value) for value in made)

    def forget(self, tag: str, value: StoredValue) -> None:
        """Let go of the buffer in which runs of this tag keep a result."""
        mine = self._buffers.get(tag, {})
        for slot in [s for s in mine if s[0] == value]:
            del mine[slot]

    def array(self, value: Array) -> Any:
        """A tensor of the runtime that holds these values."""
        return self._runtime.array(np.asarray(value, order="C"))

    def outputs(self, values: Values) -> list[Array]:
        """The network's outputs as NumPy arrays (copies)."""
        return [values[StoredValue(name, FLOAT_BITS)].numpy() for name in self._graph.outputs]

    def _run_kernel(self, step: KernelStep, held: Values, tag: str) -> Any:
        key = step.kernel.key
        shapes = self._shapes[key]
        arguments = [_view(held[v], shape) for v, shape in zip(step.inputs, shapes, strict=False)]
        mine, slot = self._buffers.setdefault(tag, {}), (step.output, shapes[-1])
        if slot not in mine:
            dtype = "float32" if step.output.bits == FLOAT_BITS else "uint8"
            mine[slot] = self._runtime.empty(shapes[-1], dtype)
        result = mine[slot]
        self._functions[key](*arguments, *self._packed(step, key), result)
        return _view(result, stored_shape(self._graph, step.output))

    def _packed(self, step: KernelStep, key: tuple[str, str, str]) -> list[Any]:
        operands = step.operands
        codes = operands.codes.digest if operands.codes is not None else None
        ranges = (operands.inputs, operands.output, operands.pre_activation, operands.state)
        slot = (step.node, key, *ranges, operands.weight_bits, codes)
        if slot not in self._constants:
            self._constants[slot] = [self._runtime.array(c) for c in step.kernel.constants(operands)]
        return self._constants[slot]


def _view(tensor: Any, shape: tuple[int, ...]) -> Any:
    return tensor if tuple(tensor.shape) == shape else tensor._create_view(shape)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that stay: TVM starts workers for each thread that runs a parallel kernel, and never ends them."""
    return ThreadPoolExecutor(count)
