"""Plans by losses that were estimated cheaply, as OHQ has them (arXiv 2309.01945): linear optimisation, no training.

Efficiency is the table's, measured on the device; the losses come from whatever estimates them there, by masks and
without data (`calibrate.masked`). What estimates is handed in as a function. The plan is priced by the problem it was
asked for, whose losses may be others: then nothing is proven of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.ilp import DEFAULT_TIME_LIMIT_SEC, Solution
from tvm_mpq.select.methods.search import HEURISTIC
from tvm_mpq.select.model import LIMIT_TOLERANCE
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem
from tvm_mpq.select.searcher import IntegerProgram

EstimateLosses = Callable[[Problem], Mapping[tuple[str, str], float]]
"""Problem -> (operator, choice's label) -> estimated loss, in any one unit; absent ones lose what the problem says."""


class Estimated:
    """Implements `Searcher`. losses: None = those of the problem are the estimates.

    A limit on the loss is one on the estimates' sum, and of the table's; a plan that misses the second is none.
    """

    name: ClassVar[str] = "ohq"

    def __init__(self, losses: EstimateLosses | None = None, time_limit_sec: float = DEFAULT_TIME_LIMIT_SEC) -> None:
        self._losses, self._program = losses, IntegerProgram(time_limit_sec)
        self._known: tuple[Problem, Problem] | None = None

    def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
        found = self._program.best(self._own(problem), limits, objective, then)
        return self._priced(problem, limits, found)

    def several(
        self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
    ) -> list[Solution]:
        found = self._program.several(self._own(problem), limits, count, objective, among)
        priced, refused = [], None
        for solution in found:
            try:
                priced.append(self._priced(problem, limits, solution))
            except InfeasibleError as e:
                refused = e
        if refused is not None and not priced:
            raise refused
        return sorted(priced, key=lambda s: s.objective)

    def _own(self, problem: Problem) -> Problem:
        """The problem with the estimates in the losses' place."""
        if self._losses is None:
            return problem
        if self._known is None or self._known[0] is not problem:
            estimates = self._losses(problem)
            operators = tuple(_estimated(operator, estimates) for operator in problem.operators)
            self._known = problem, dataclasses.replace(problem, operators=operators)
        return self._known[1]

    def _priced(self, problem: Problem, limits: Limits, found: Solution) -> Solution:
        """The same plan at the problem's own prices."""
        if self._own(problem) is problem:
            return found
        cost = price(problem, found.choices, found.formats)
        loss = limits.loss
        if loss is not None and cost.loss > loss + LIMIT_TOLERANCE * abs(loss):
            raise InfeasibleError(
                f"{self.name} found a plan whose loss it estimates at {found.loss:.3g}, and which loses "
                f"{cost.loss:.3g} by the table (allowed {loss:.3g}); ilp says whether any plan keeps the limit"
            )
        return Solution.priced(
            found.choices,
            found.formats,
            cost,
            found.goal,
            bound=problem.least(found.goal),
            status=HEURISTIC,
            seconds=found.seconds,
            solver=f"{self.name}, {found.solver}",
            evaluations=1,
        )


def _estimated(operator: Operator, estimates: Mapping[tuple[str, str], float]) -> Operator:
    def choice(old: Choice) -> Choice:
        return dataclasses.replace(old, loss=estimates.get((operator.name, old.label), old.loss))

    return dataclasses.replace(operator, choices=tuple(map(choice, operator.choices)))
