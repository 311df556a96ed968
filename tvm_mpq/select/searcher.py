"""What choosing a plan asks of whatever searches: the integer program today, others with the same answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tvm_mpq.select import ilp
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Limits, Problem


class Searcher(Protocol):
    """Finds assignments of a problem within limits. Objectives are `latency`, `loss`, `size` and `energy`."""

    def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
        """The least `objective` within the limits; `then` (default `ilp.THEN`) decides between equals.

        Raises InfeasibleError when nothing is within the limits.
        """

    def several(
        self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
    ) -> list[Solution]:
        """At most `count` good solutions, best first, that differ in the choices of the operators `among`.

        Raises InfeasibleError when nothing is within the limits.
        """


class IntegerProgram:
    """Implements `Searcher`: exact, with bound and gap.

    time_limit_sec: for each solution, on the solver's clock.
    """

    def __init__(self, time_limit_sec: float = ilp.DEFAULT_TIME_LIMIT_SEC) -> None:
        self._time_limit_sec = time_limit_sec

    def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
        return ilp.solve(problem, limits, objective, time_limit_sec=self._time_limit_sec, then=then)

    def several(
        self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
    ) -> list[Solution]:
        return ilp.k_best(problem, limits, count, objective, among=among, time_limit_sec=self._time_limit_sec)
