"""Plans by bits that something else learned, in the order in which Free Bits works (arXiv 2307.02894).

A differentiable search gives bits, knowing nothing of the device; then each plan is given more bits where that is
faster by the tables (`free_bits.climb`). What learns needs the network and data, which this room does not know: it is
handed in as a function from the problem to bits, many for one problem, of which the best within the limits is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from tvm_mpq.schema import FP32, Precision
from tvm_mpq.select.methods.completion import ChoiceIndices, Completion
from tvm_mpq.select.methods.free_bits import climb, has_no_fewer
from tvm_mpq.select.methods.search import Search
from tvm_mpq.select.problem import Choice, Problem

LearnBits = Callable[[Problem], Sequence[Mapping[str, Precision]]]
"""Problem -> bits of its operators, as many plans as were learned; an operator without any runs in fp32."""


class LearnedBits:
    """Implements `Method`. Deterministic; what `learn` draws is its own affair."""

    name: ClassVar[str] = "freebits"
    evaluations: ClassVar[int] = 100_000

    def __init__(self, learn: LearnBits) -> None:
        self._learn = learn
        self._known: tuple[Problem, list[ChoiceIndices]] | None = None

    def explore(self, search: Search) -> None:
        problem = search.completion.problem
        if self._known is None or self._known[0] is not problem:
            self._known = problem, self._plans(search.completion)
        for labels in self._known[1]:
            search.start(labels)

    def _plans(self, completion: Completion) -> list[ChoiceIndices]:
        """Every plan that was learned and those on its way to more bits, each once."""
        found: dict[ChoiceIndices, None] = {}
        for bits in self._learn(completion.problem):
            labels = tuple(
                choices.index(runnable(choices, bits.get(name, FP32)))
                for name, choices in zip(completion.names, completion.choices, strict=True)
            )
            plan = None if labels in found else completion.complete(labels)
            found[labels] = None
            if plan is not None:
                found.update(dict.fromkeys(p.labels for p in climb(completion, plan, completion.moved)))
        return list(found)


def runnable(choices: Sequence[Choice], bits: Precision) -> Choice:
    """Of an operator's choices the one with least weight bits times activation bits that has no fewer of either.

    Where there is none, the one with most.
    """

    def key(choice: Choice) -> tuple[int, int]:
        own = Precision.parse(choice.label)
        return own.weight_bits * own.activation_bits, own.activation_bits

    enough = [c for c in choices if has_no_fewer(Precision.parse(c.label), bits)]
    return min(enough, key=key) if enough else max(choices, key=key)
