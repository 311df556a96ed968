"""What the search methods share: moves that are priced and counted, when to stop, and the best plans seen.

A method is a class with `explore`, which looks at plans through a `Search`; `PlanSearcher` makes a `Searcher` of it.
Clocks belong to whoever calls: this room touches none.

In one file: moves, their prices and the memory of the best are one state.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from tvm_mpq.errors import InfeasibleError, InvalidValueError
from tvm_mpq.select.ilp import THEN, Solution
from tvm_mpq.select.methods.completion import ChoiceIndices, Completed, Completion
from tvm_mpq.select.methods.effort import Effort, TracePoint
from tvm_mpq.select.methods.memory import Memory, Resumable
from tvm_mpq.select.model import LIMIT_TOLERANCE
from tvm_mpq.select.pricing import price, total
from tvm_mpq.select.problem import QUANTITIES, Limits, Problem

HEURISTIC = "heuristic"
"""`Solution.status` of a plan that nothing is proven of but that it exists."""

STATE_VERSION = 1
"""Of saved states: raise it when they mean something else, or when a method goes on otherwise than it did."""

_HEARD_EVERY = 256  # evaluations between two looks at the clock


def excess(plan: Completed, limits: Iterable[tuple[str, float]]) -> float:
    """Sum over the limits, (quantity, limit), of what the plan is above them, in shares of each; 0 = within all."""
    return math.fsum(
        (value - limit) / (abs(limit) or 1.0)
        for limit, value in ((limit, total(plan, quantity)) for quantity, limit in limits)
        if value > limit + LIMIT_TOLERANCE * abs(limit)
    )


def solution_of(
    completion: Completion, plan: Completed, goal: str, *, seconds: float, solver: str, evaluations: int
) -> Solution:
    """A plan as what a `Searcher` answers, priced anew. The bound is that of the cheapest choices alone."""
    labels, formats = completion.assignment(plan)
    cost = price(completion.problem, labels, formats)
    return Solution.priced(
        labels,
        formats,
        cost,
        goal,
        bound=completion.problem.least(goal),
        status=HEURISTIC,
        seconds=seconds,
        solver=solver,
        evaluations=evaluations,
    )


class SpentError(Exception):
    """No more plans are priced. Ends a method from within; `PlanSearcher` catches it."""


class Search:
    """One run of a method: it asks for plans here, and all that are within the limits are remembered.

    Asking for a plan when the evaluations or the seconds are spent raises SpentError.
    """

    def __init__(
        self,
        completion: Completion,
        limits: Limits,
        objective: str,
        then: Sequence[str],
        effort: Effort,
        default_evaluations: int,
        keep: Callable[[Completed], object],
        count: int,
        memory: Memory | None = None,
    ) -> None:
        self.completion, self.objective = completion, objective
        self.rng = random.Random(effort.seed)
        self.limits = limits
        self.evaluations = 0
        self.nearest = math.inf
        """Least excess over the limits that was seen."""
        self.trace: list[TracePoint] = []
        self.told = (0, 1)
        """How far a method is that does not end with its evaluations, and of what."""
        self._order = (objective, *then)
        self._limits = tuple(limits.active())
        self.most = effort.evaluations or default_evaluations
        """Evaluations after which it ends."""
        self._effort = effort
        self._began = effort.clock() if effort.clock else 0.0
        self._kept: dict[object, tuple[tuple[float, ...], Completed]] = {}
        self._keep, self._count = keep, count
        self._memory = memory

    @property
    def done(self) -> float:
        """Share of the evaluations that are spent, 0 to 1."""
        return min(1.0, self.evaluations / self.most)

    @property
    def seconds(self) -> float:
        """Since the search began; 0 without a clock."""
        return self._effort.clock() - self._began if self._effort.clock else 0.0

    @property
    def best(self) -> float:
        """Least objective within the limits so far; infinite before there is one."""
        return min((rank[0] for rank, _ in self._kept.values()), default=math.inf)

    def start(self, labels: ChoiceIndices) -> Completed | None:
        """A plan, priced; None when no formats fit."""
        self._count_one()
        return self._seen(self.completion.complete(labels))

    def moved(self, plan: Completed, changes: Mapping[int, int]) -> Completed | None:
        """The plan with other choices (operator's index -> choice's index), priced; None when no formats fit."""
        self._count_one()
        return self._seen(self.completion.moved(plan, changes))

    def moves(self, plan: Completed) -> Iterator[Completed]:
        """Every plan that differs in one operator."""
        for i, choices in enumerate(self.completion.choices):
            for c in range(len(choices)):
                if c != plan.labels[i] and (found := self.moved(plan, {i: c})) is not None:
                    yield found

    def rank(self, plan: Completed) -> tuple[float, ...]:
        """What plans within the limits are compared by: the objective, and what decides between equals."""
        return tuple(total(plan, quantity) for quantity in self._order)

    def value(self, plan: Completed) -> float:
        return total(plan, self.objective)

    def excess(self, plan: Completed) -> float:
        """Sum over the limits of what is above them, in shares of each; 0 = within all."""
        return excess(plan, self._limits)

    def usage(self, plan: Completed) -> float:
        """Sum over the limits of the share of each that the plan takes."""
        return math.fsum(total(plan, quantity) / (abs(limit) or 1.0) for quantity, limit in self._limits)

    def keep(self, state: dict[str, Any]) -> None:
        """Save where the search stands, and the method's own state (JSON values) with it."""
        if self._memory is None:
            return
        generator = self.rng.getstate()
        here = {
            "evaluations": self.evaluations,
            "nearest": self.nearest if math.isfinite(self.nearest) else None,
            "trace": [point.row() for point in self.trace],
            "kept": [plan.labels for _, plan in self._kept.values()],
            "random": [generator[0], list(generator[1]), generator[2]],
            "seconds": self.seconds,
        }
        self._memory.save({"search": here, "method": state})

    def recalled(self) -> dict[str, Any] | None:
        """Go back to where the search was saved; returns the method's own state, or None where nothing was saved."""
        saved = None if self._memory is None else self._memory.load()
        if saved is None:
            return None
        here, state = saved["search"], saved["method"]
        self.evaluations = here["evaluations"]
        self.nearest = math.inf if here["nearest"] is None else here["nearest"]
        self.trace = [TracePoint.of(row) for row in here["trace"]]
        for labels in here["kept"]:
            plan = self.completion.complete(tuple(labels))
            assert plan is not None, "it was within the limits"
            self._remember(plan)
        version, numbers, gauss = here["random"]
        self.rng.setstate((version, tuple(numbers), gauss))
        self._began -= here["seconds"]
        return dict(state)

    def found(self) -> list[Completed]:
        """The best plans within the limits, best first, as many as are wanted."""
        return [plan for _, plan in sorted(self._kept.values(), key=lambda entry: entry[0])]

    def _count_one(self) -> None:
        if self.evaluations >= self.most:
            raise SpentError
        if self.evaluations % _HEARD_EVERY == 0:
            self.look_up()
        self.evaluations += 1

    def _seen(self, plan: Completed | None) -> Completed | None:
        if plan is None:
            return None
        excess = self.excess(plan)
        self.nearest = min(self.nearest, excess)
        if excess == 0:
            self._remember(plan)
        return plan

    def look_up(self) -> None:
        """See whether the time is over, and tell the progress. Methods call it that take long between two plans."""
        if self._effort.seconds is not None and self.seconds >= self._effort.seconds:
            raise SpentError
        if self._effort.progress:
            done, of = max((self.evaluations, self.most), self.told, key=lambda pair: pair[0] / pair[1])
            self._effort.progress(done, of, "searching plans")

    def _remember(self, plan: Completed) -> None:
        rank, key = self.rank(plan), self._keep(plan)
        if key in self._kept and self._kept[key][0] <= rank:
            return
        self._kept[key] = (rank, plan)
        if len(self._kept) > self._count:
            del self._kept[max(self._kept, key=lambda k: self._kept[k][0])]


class Method(Protocol):
    """A way to look for plans. Whatever it looks at within the limits may become the answer."""

    name: ClassVar[str]
    evaluations: ClassVar[int]
    """Plans priced at most, where the user does not say."""

    def explore(self, search: Search) -> None:
        """Look at plans until there is no more to try, or the search raises SpentError."""


class PlanSearcher:
    """Implements `Searcher` by a method that proves nothing: its bounds are those of the cheapest choices alone."""

    def __init__(self, method: Method, effort: Effort) -> None:
        self._method, self._effort = method, effort
        self._completion: Completion | None = None
        self.trace: list[TracePoint] = []
        """Of the last search."""

    def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
        names = [o.name for o in problem.operators]
        return self._several(problem, limits, 1, objective, names, then)[0]

    def several(
        self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
    ) -> list[Solution]:
        return self._several(problem, limits, count, objective, among, None)

    def _several(
        self,
        problem: Problem,
        limits: Limits,
        count: int,
        objective: str,
        among: Collection[str],
        then: Sequence[str] | None,
    ) -> list[Solution]:
        if objective not in QUANTITIES:
            raise InvalidValueError(f"objective must be one of {', '.join(QUANTITIES)} (got {objective!r})")
        for quantity in (objective, *(q for q, _ in limits.active())):
            problem.require_known(quantity)
        if self._completion is None or self._completion.problem is not problem:
            self._completion = Completion(problem)
        completion = self._completion
        distinct = [i for i, name in enumerate(completion.names) if name in among]
        memory = self._memory_of((problem, limits, objective, then, count, distinct))
        search = Search(
            completion,
            limits,
            objective,
            THEN[objective] if then is None else then,
            self._effort,
            self._method.evaluations,
            lambda plan: tuple(plan.labels[i] for i in distinct),
            count,
            memory,
        )
        with contextlib.suppress(SpentError):
            self._method.explore(search)
        self.trace = search.trace
        if memory is not None:
            memory.forget()
        found = search.found()
        if not found:
            raise InfeasibleError(self._nothing(search))
        solver = f"{self._method.name}, seed {self._effort.seed}"
        return [
            solution_of(
                completion, plan, objective, seconds=search.seconds, solver=solver, evaluations=search.evaluations
            )
            for plan in found
        ]

    def _memory_of(self, asked: tuple[object, ...]) -> Memory | None:
        """The memory of what is asked for, of a method that has one."""
        method, effort = self._method, self._effort
        if effort.memories is None or not isinstance(method, Resumable):
            return None
        parts = STATE_VERSION, self._method.name, method.settings, effort.seed, effort.evaluations, asked
        return effort.memories(repr(parts))

    def _nothing(self, search: Search) -> str:
        text = f"{self._method.name} found no plan within the limits among {search.evaluations} it looked at"
        if math.isfinite(search.nearest):
            text += f"; the nearest exceeds them by {search.nearest:.1%}"
        return text + "; that proves nothing: the method ilp says whether there is one, and what the least is"
