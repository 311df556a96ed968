"""The free-bits step (Rutishauser, Conti, Benini, arXiv 2307.02894) after any method: more bits where that is faster.

For every operator, of the choices with no fewer weight and activation bits the fastest that is strictly faster. In the
paper faster is the layer's own entry in the table; here it is the whole network by the tables: tensors are stored anew,
all readers of a tensor are looked at again, and boundaries cost what they cost. Where a choice needs more activation
bits, it is also tried with all other readers of its input raised to them, for a boundary that is paid for one of them
is paid for all. Rounds are repeated until nothing is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from tvm_mpq.schema import Precision
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.completion import Completed, Completion
from tvm_mpq.select.methods.effort import TracePoint
from tvm_mpq.select.methods.search import PlanSearcher, excess, solution_of
from tvm_mpq.select.problem import Choice, Limits, Problem
from tvm_mpq.select.searcher import Searcher

_FASTER = 1 - 1e-9
"""Strictly, beyond what sums of floats scatter."""


class FreeBits:
    """Implements `Searcher`: another one's plans after the step. Limits are kept; so are bits, which only rise."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    @property
    def trace(self) -> list[TracePoint]:
        """Of the other's last search."""
        return self._searcher.trace if isinstance(self._searcher, PlanSearcher) else []

    def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
        return raised(problem, self._searcher.best(problem, limits, objective, then), limits)

    def several(
        self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
    ) -> list[Solution]:
        return [raised(problem, s, limits) for s in self._searcher.several(problem, limits, count, objective, among)]


def raised(problem: Problem, solution: Solution, limits: Limits | None = None) -> Solution:
    """The solution after the step, within `limits`; itself where nothing is free."""
    completion, active = Completion(problem), tuple((limits or Limits()).active())
    first = completion.complete(completion.labels_of(solution.choices))
    if first is None:
        return solution
    looked_at = 0

    def moved(plan: Completed, changes: Mapping[int, int]) -> Completed | None:
        nonlocal looked_at
        looked_at += 1
        found = completion.moved(plan, changes)
        return None if found is None or excess(found, active) > 0 else found

    *_, plan = climb(completion, first, moved)
    if plan.labels == first.labels or plan.latency_us >= _FASTER * solution.latency_us:
        return solution
    return solution_of(
        completion,
        plan,
        solution.goal,
        seconds=solution.seconds,
        solver=f"{solution.solver}, free bits",
        evaluations=solution.evaluations + looked_at,
    )


def climb(
    completion: Completion, plan: Completed, moved: Callable[[Completed, Mapping[int, int]], Completed | None]
) -> Iterator[Completed]:
    """The plan, and those on its way to more bits, each strictly faster than the one before.

    moved: the plan with other choices (`Completion.moved`), or None where that is not allowed.
    """
    yield plan
    rising = True
    while rising:
        rising = False
        for i in range(len(plan.labels)):
            tried = [moved(plan, changes) for changes in _raises(completion, plan, i)]
            faster = [p for p in tried if p is not None and p.latency_us < _FASTER * plan.latency_us]
            if faster:
                plan, rising = min(faster, key=lambda p: p.latency_us), True
                yield plan


def _raises(completion: Completion, plan: Completed, i: int) -> Iterator[dict[int, int]]:
    """Changes that give operator `i` no fewer bits, alone and with the other readers of its input."""
    now = completion.choices[i][plan.labels[i]]
    for c in _no_fewer_bits(completion, i, now):
        yield {i: c}
        bits = completion.choices[i][c].in_bits
        if bits > now.in_bits:
            together = _with_readers(completion, plan, i, bits)
            if together:
                yield {**together, i: c}


def _with_readers(completion: Completion, plan: Completed, i: int, bits: int) -> dict[int, int]:
    """The other readers of an operator's input that have fewer activation bits, each at its fastest with `bits`."""
    problem = completion.problem
    read = problem.operator(completion.names[i]).inputs[0]
    found = {}
    for reader in problem.consumers[read]:
        if reader.name not in completion.names or reader.name == completion.names[i]:
            continue
        j = completion.names.index(reader.name)
        choices, now = completion.choices[j], completion.choices[j][plan.labels[j]]
        options = [c for c in _no_fewer_bits(completion, j, now) if choices[c].in_bits == bits]
        if now.in_bits < bits and options:
            found[j] = min(options, key=lambda c: min(choices[c].latency_us.values()))
    return found


def _no_fewer_bits(completion: Completion, i: int, now: Choice) -> list[int]:
    """Other choices of an operator with no fewer bits of weights and activations."""
    present = Precision.parse(now.label)
    return [
        c
        for c, choice in enumerate(completion.choices[i])
        if choice is not now and has_no_fewer(Precision.parse(choice.label), present)
    ]


def has_no_fewer(one: Precision, other: Precision) -> bool:
    """Whether neither weights nor activations of one have fewer bits than those of the other."""
    return one.weight_bits >= other.weight_bits and one.activation_bits >= other.activation_bits
