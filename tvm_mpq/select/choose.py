"""From a budget to one plan: solve, then look at the best few with real accuracy, for losses do not simply add up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Budget, Progress
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.quality import Quality, Tried
from tvm_mpq.select.searcher import Searcher
from tvm_mpq.select.uniforms import weighted
from tvm_mpq.select.within_drop import fastest_within

TOP_K = 3
"""Solutions that are run end to end when the budget limits latency or size."""

DEFAULT_DROP = 1.0
"""Accuracy points that a plan may lose when the user gave no budget at all."""


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
    int8: Solution,
    evaluate: Callable[[Solution], Quality],
    *,
    searcher: Searcher,
    latency_share: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Tried, list[Tried]]:
    """The plan to build, and all that were run end to end.

    With a limit on latency or size only: least loss within it. With `max_drop`: least latency whose real drop stays
    within it (and within the other limits). int8: uniform 8 bit, which latency ratios refer to. latency_share: of the
    latency budget that may be used by the table's account.

    Raises
    ------
    InfeasibleError
        If nothing satisfies the limits, or no plan tried keeps the drop or gives finite outputs.
    """
    budget = effective_budget(budget)
    limits = limits_of(budget, int8.latency_us)
    if limits.latency_us is not None:
        limits = dataclasses.replace(limits, latency_us=latency_share * limits.latency_us)
    if budget.max_drop is None:
        chosen, tried = _least_loss(problem, limits, evaluate, searcher, progress)
    else:
        chosen, tried = fastest_within(problem, limits, budget.max_drop, evaluate, searcher, progress)
    if not math.isfinite(chosen.quality.loss):
        raise InfeasibleError(
            "every plan tried within the limits gives NaN or infinity on the calibration data; allow a larger budget"
        )
    return chosen, [t for t in tried if math.isfinite(t.quality.loss)]


def _least_loss(
    problem: Problem,
    limits: Limits,
    evaluate: Callable[[Solution], Quality],
    searcher: Searcher,
    progress: Progress | None,
) -> tuple[Tried, list[Tried]]:
    found = searcher.several(problem, limits, TOP_K, "loss", among=weighted(problem))
    tried = []
    for i, solution in enumerate(found):
        tried.append(Tried(solution, evaluate(solution)))
        if progress:
            progress(i + 1, len(found), "checking plans end to end")
    return min(tried, key=lambda t: (t.quality.loss, t.solution.latency_us)), tried
