"""From a budget to one plan: solve, then look at the best few with real accuracy, for losses do not simply add up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline.options import Progress
from tvm_mpq.schema import Budget
from tvm_mpq.select.ilp import Solution, k_best, solve
from tvm_mpq.select.problem import Limits, Problem

TOP_K = 3
"""Solutions that are run end to end when the budget limits latency or size."""

BISECTIONS = 6
"""Plans that are run end to end when the budget limits the accuracy drop."""

DEFAULT_DROP = 1.0
"""Accuracy points that a plan may lose when the user gave no budget at all."""


@dataclass(frozen=True)
class Quality:
    """A plan run end to end on the calibration data. drop: accuracy points lost to fp32; loss: mean output loss."""

    drop: float
    loss: float


@dataclass(frozen=True)
class Tried:
    """A solution and what it was really worth."""

    solution: Solution
    quality: Quality


def effective_budget(budget: Budget) -> Budget:
    """The budget, or the default accuracy drop where the user gave none."""
    return Budget(max_drop=DEFAULT_DROP) if budget == Budget() else budget


def limits_of(budget: Budget, int8_latency_us: float) -> Limits:
    """The budget's upper limits in the solver's units; the accuracy drop is not among them."""
    latencies = []
    if budget.latency_ratio is not None:
        latencies.append(budget.latency_ratio * int8_latency_us)
    if budget.latency_ms is not None:
        latencies.append(budget.latency_ms * 1000)
    return Limits(
        latency_us=min(latencies) if latencies else None,
        size_bytes=None if budget.size_mb is None else budget.size_mb * 1e6,
        energy_mj=budget.energy_mj,
    )


def choose(
    problem: Problem,
    budget: Budget,
    int8_latency_us: float,
    judge: Callable[[Solution], Quality],
    *,
    time_limit_sec: float,
    progress: Progress | None = None,
) -> tuple[Tried, list[Tried]]:
    """The plan to build, and all that were run end to end.

    With a limit on latency or size only: least loss within it. With `max_drop`: least latency whose real drop stays
    within it (and within the other limits).

    Raises
    ------
    InfeasibleError
        If nothing satisfies the limits, or no plan tried keeps the drop.
    """
    budget = effective_budget(budget)
    limits = limits_of(budget, int8_latency_us)
    if budget.max_drop is None:
        return _least_loss(problem, limits, judge, time_limit_sec, progress)
    return _least_latency(problem, limits, budget.max_drop, judge, time_limit_sec, progress)


def _least_loss(
    problem: Problem,
    limits: Limits,
    judge: Callable[[Solution], Quality],
    time_limit_sec: float,
    progress: Progress | None,
) -> tuple[Tried, list[Tried]]:
    weighted = [o.name for o in problem.operators if any(o.exact_inputs)]
    found = k_best(problem, limits, TOP_K, "loss", among=weighted, time_limit_sec=time_limit_sec)
    tried = []
    for i, solution in enumerate(found):
        tried.append(Tried(solution, judge(solution)))
        if progress:
            progress(i + 1, len(found), "checking plans end to end")
    return min(tried, key=lambda t: (t.quality.loss, t.solution.latency_us)), tried


def _least_latency(
    problem: Problem,
    limits: Limits,
    max_drop: float,
    judge: Callable[[Solution], Quality],
    time_limit_sec: float,
    progress: Progress | None,
) -> tuple[Tried, list[Tried]]:
    tried: list[Tried] = []

    def attempt(loss: float | None) -> Tried:
        capped = limits if loss is None else limits.tightened("loss", loss)
        solution = solve(problem, capped, objective="latency", time_limit_sec=time_limit_sec)
        for old in tried:
            if old.solution.choices == solution.choices and old.solution.formats == solution.formats:
                return old
        tried.append(Tried(solution, judge(solution)))
        if progress:
            progress(len(tried), BISECTIONS + 2, "checking plans end to end")
        return tried[-1]

    fastest = attempt(None)
    if fastest.quality.drop <= max_drop:
        return fastest, tried
    safest = solve(problem, limits, objective="loss", time_limit_sec=time_limit_sec)
    low, high = max(safest.loss, fastest.solution.loss * 1e-4), fastest.solution.loss
    best = attempt(safest.loss)
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high) if low > 0 else high / 2
        candidate = attempt(middle)
        if candidate.quality.drop <= max_drop:
            low = middle
            if candidate.solution.latency_us < best.solution.latency_us or best.quality.drop > max_drop:
                best = candidate
        else:
            high = middle
    if best.quality.drop > max_drop:
        least = min(t.quality.drop for t in tried)
        raise InfeasibleError(
            f"budget max_drop {max_drop:g} points cannot be met within the other limits; the least found is {least:.2f}"
        )
    return best, tried
