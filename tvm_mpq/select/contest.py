"""Search methods beside each other: the same problem, the same budgets, the same judge, and the solver's bound."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.ilp import Solution, relative_gap
from tvm_mpq.select.methods.effort import TracePoint
from tvm_mpq.select.methods.free_bits import FreeBits
from tvm_mpq.select.methods.search import PlanSearcher
from tvm_mpq.select.methods.table import ILP
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import Searcher

OBJECTIVE = "loss"

PROVEN_EMPTY = "not searched, since the method ilp proves that nothing is within the limits"

Recall = Callable[[str, Limits, Callable[[], "Found"]], "Found"]
"""Method, limits and the search that would be made: what is known of it, or what it finds now."""


def _found_now(method: str, limits: Limits, search: Callable[[], Found]) -> Found:
    """Knows nothing; implements `Recall`."""
    return search()


@dataclass(frozen=True)
class Found:
    """What one method found under one budget.

    share: of what uniform 8 bit takes that is allowed. solution: None = nothing within it, for the `reason`. bound: no
    plan within the budget loses less; None where nothing is within it. gap: what the plan loses beyond it, as a share
    of the larger of the two. seconds: by the clock. trace: of a method that samples.
    """

    method: str
    share: float
    solution: Solution | None
    reason: str
    bound: float | None
    gap: float | None
    seconds: float
    trace: tuple[TracePoint, ...] = ()


def contest(
    problem: Problem,
    int8: float,
    shares: Sequence[float],
    methods: Sequence[str],
    searcher: Callable[[str], Searcher],
    clock: Callable[[], float],
    tell: Callable[[str], None],
    *,
    quantity: str = "latency",
    within: Limits | None = None,
    recall: Recall = _found_now,
) -> list[Found]:
    """Every method under every budget, the least loss within each share of `int8`; budgets as they are given.

    int8: what uniform 8 bit takes of `quantity`, one of `QUANTITIES`. within: other limits, kept under every budget.
    searcher: a new one of a method's name. The solver runs under every budget, for its bound, also when `methods` leave
    it out; where it proves that there is no plan, no other method looks for one. recall: keeps what was found, so that
    the same contest begun again goes on where it ended.
    """

    def entry_of(method: str, limits: Limits, share: float) -> Found:
        return recall(method, limits, lambda: _entry(problem, limits, share, method, searcher(method), clock))

    @functools.cache
    def least_share() -> str:
        return _least_share(problem, searcher(ILP), within or Limits(), quantity, int8)

    entries = []
    for share in shares:
        limits = (within or Limits()).tightened(quantity, share * int8)
        tell(f"solving for {share:g} of 8 bit")
        exact = entry_of(ILP, limits, share)
        bound = None if exact.solution is None else exact.solution.bound
        if exact.solution is None:
            exact = dataclasses.replace(exact, reason=least_share() or exact.reason)
        for method in methods:
            if method != ILP and exact.solution is None:
                entries.append(Found(method, share, None, f"{PROVEN_EMPTY}: {exact.reason}", None, None, 0.0))
                continue
            if method != ILP:
                tell(f"{method} for {share:g} of 8 bit")
            entry = exact if method == ILP else entry_of(method, limits, share)
            entries.append(dataclasses.replace(entry, bound=bound, gap=_gap(entry.solution, bound)))
    return entries


def _entry(
    problem: Problem, limits: Limits, share: float, method: str, searcher: Searcher, clock: Callable[[], float]
) -> Found:
    began = clock()
    try:
        solution, reason = searcher.best(problem, limits, OBJECTIVE), ""
    except InfeasibleError as e:
        solution, reason = None, str(e)
    trace = searcher.trace if isinstance(searcher, (PlanSearcher, FreeBits)) else ()
    return Found(method, share, solution, reason, None, None, clock() - began, tuple(trace))


def _least_share(problem: Problem, searcher: Searcher, within: Limits, quantity: str, int8: float) -> str:
    """Why no plan is within a share of 8 bit's `quantity`, in shares; empty where another limit is the reason."""
    try:
        least = searcher.best(problem, within, quantity).quantity(quantity) / int8
    except InfeasibleError:
        return ""
    share = math.ceil(1000 * least) / 1000  # rounded up, so that there is a plan within it
    return f"the least feasible {quantity} is {share:g} of 8 bit; raise the budget to at least that"


def _gap(solution: Solution | None, bound: float | None) -> float | None:
    if solution is None or bound is None:
        return None
    return relative_gap(solution.loss, bound)
