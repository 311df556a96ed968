"""A lowered network run over many samples at once, step by step, so that between two steps all samples can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt

from tvm_mpq.execute.interpreter import Interpreter, Sample, Values
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import ReshapeStep, Step, StoredValue, made_by, read_by, value_bytes
from tvm_mpq.schema import FLOAT_BITS


class Lockstep:
    """Runs steps in their order, each on all samples; a tensor is let go when no later step reads it.

    steps: prepared by the interpreter. name: tells its buffers from those of another walk through it.
    """

    def __init__(
        self, graph: Graph, interpreter: Interpreter, samples: Sequence[Sample], steps: Sequence[Step], name: str
    ) -> None:
        self._graph, self._interpreter, self._steps = graph, interpreter, steps
        self._tags = [f"{name}{i}" for i in range(len(samples))]
        self._held = [interpreter.load(sample) for sample in samples]
        self._readers = Counter(value for step in steps for value in read_by(step))
        self._done = 0

    def __len__(self) -> int:
        """How many samples."""
        return len(self._held)

    @property
    def step(self) -> Step | None:
        """The next one to run; None at the end."""
        return self._steps[self._done] if self._done < len(self._steps) else None

    def holds(self, value: StoredValue) -> bool:
        """Whether the tensor was made already, and is not let go yet."""
        return all(value in held for held in self._held)

    def values(self, value: StoredValue) -> Iterator[npt.NDArray[Any]]:
        """The tensor of each sample, without padded channels."""
        channels = self._graph.tensors[value.tensor].shape[-1]
        for held in self._held:
            yield held[value].numpy()[..., :channels]

    def advance(self, changed: Step | None = None) -> None:
        """Run the next step, or in its place the one that is given: the same with other operands."""
        step = self._steps[self._done]
        run = step if changed is None else changed
        self._done += 1
        self._interpreter.pack([run])  # once, not by all that run at once

        def one(i: int, _lane: str) -> Values:
            return self._interpreter.run([run], self._held[i], tag=self._tags[i])

        self._held = self._interpreter.each(one, range(len(self._tags)))
        for value in read_by(step):
            self._readers[value] -= 1
            if not self._readers[value]:
                self._forget(value)

    def _forget(self, value: StoredValue) -> None:
        for held, tag in zip(self._held, self._tags, strict=True):
            del held[value]
            self._interpreter.forget(tag, value)


def peak_bytes(graph: Graph, steps: Sequence[Step]) -> int:
    """What the tensors of one sample take at most while the steps run and what nobody reads any more is let go."""
    readers = Counter(value for step in steps for value in read_by(step))
    live = {StoredValue(name, FLOAT_BITS): 0 for name in graph.inputs}
    most = 0
    for step in steps:
        made = made_by(step)
        live[made] = 0 if isinstance(step, ReshapeStep) else value_bytes(graph, made)
        most = max(most, sum(live.values()))
        for value in read_by(step):
            readers[value] -= 1
            if not readers[value]:
                del live[value]
    return most
