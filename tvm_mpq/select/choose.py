"""From a budget to one plan: solve, then look at the best few with real accuracy, for losses do not simply add up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Budget, Progress
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import Searcher

TOP_K = 3
"""Solutions that are run end to end when the budget limits latency or size."""

BISECTIONS = 6
"""Plans that are run end to end when the budget limits the accuracy drop."""

DEFAULT_DROP = 1.0
"""Accuracy points that a plan may lose when the user gave no budget at all."""


@dataclass(frozen=True)
class Quality:
    """A plan run end to end on the calibration data. drop: accuracy points lost to fp32; loss: mean output loss.

    Both are infinite where outputs hold NaN or infinity.
    """

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
    int8: Solution,
    evaluate: Callable[[Solution], Quality],
    *,
    searcher: Searcher,
    latency_share: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Tried, list[Tried]]:
    """The plan to build, and all that were run end to end.

    With a limit on latency or size only: least loss within it. With `max_drop`: least latency whose real drop stays
    within it (and within the other limits). int8: uniform 8 bit, which latency ratios refer to and the search for the
    least latency starts from. latency_share: of the latency budget that may be used by the table's account.

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
        chosen, tried = _least_latency(problem, limits, budget.max_drop, int8, evaluate, searcher, progress)
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
    weighted = [o.name for o in problem.operators if any(o.exact_inputs)]
    found = searcher.several(problem, limits, TOP_K, "loss", among=weighted)
    tried = []
    for i, solution in enumerate(found):
        tried.append(Tried(solution, evaluate(solution)))
        if progress:
            progress(i + 1, len(found), "checking plans end to end")
    return min(tried, key=lambda t: (t.quality.loss, t.solution.latency_us)), tried


def _least_latency(
    problem: Problem,
    limits: Limits,
    max_drop: float,
    int8: Solution,
    evaluate: Callable[[Solution], Quality],
    searcher: Searcher,
    progress: Progress | None,
) -> tuple[Tried, list[Tried]]:
    """Bisect the cap on the tables' loss, from where uniform 8 bit stands: below it when that drops too much itself.

    Real drops scatter and do not follow the sum of losses strictly, so every plan seen to keep the drop counts.
    """
    tried: list[Tried] = []

    def attempt(solution: Solution) -> Tried:
        for old in tried:
            if old.solution.choices == solution.choices and old.solution.formats == solution.formats:
                return old
        tried.append(Tried(solution, evaluate(solution)))
        if progress:
            progress(min(len(tried), BISECTIONS + 3), BISECTIONS + 3, "checking plans end to end")
        return tried[-1]

    def fastest(loss: float | None) -> Solution:
        capped = limits if loss is None else limits.tightened("loss", loss)
        return searcher.best(problem, capped, "latency")

    first = attempt(fastest(None))
    if first.quality.drop <= max_drop:
        return first, tried
    least = searcher.best(problem, limits, "loss")
    low, high = least.loss, first.solution.loss
    if low < int8.loss < high:
        # The fastest plan of no more loss stands for uniform 8 bit: it is no slower, and within the other limits.
        if attempt(fastest(int8.loss)).quality.drop <= max_drop or _keeps(int8, limits, max_drop, attempt):
            low = int8.loss
        else:
            high = int8.loss
    if low < int8.loss:
        attempt(least)
    low = max(low, high * 1e-4)
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        if attempt(fastest(middle)).quality.drop <= max_drop:
            low = middle
        else:
            high = middle
    keeping = [t for t in tried if t.quality.drop <= max_drop]
    if not keeping:
        found = min(t.quality.drop for t in tried)
        raise InfeasibleError(
            f"budget max_drop {max_drop:g} points cannot be met within the other limits; the least found is {found:.2f}"
        )
    return min(keeping, key=lambda t: (t.solution.latency_us, t.quality.drop)), tried


def _keeps(int8: Solution, limits: Limits, max_drop: float, attempt: Callable[[Solution], Tried]) -> bool:
    """Whether uniform 8 bit itself is within the limits and keeps the drop."""
    within = (
        int8.latency_us <= (limits.latency_us or math.inf)
        and int8.size_bytes <= (limits.size_bytes or math.inf)
        and (int8.energy_mj or 0.0) <= (limits.energy_mj or math.inf)
    )
    return within and attempt(int8).quality.drop <= max_drop
