"""Selecting: what becomes of a plan whose predicted latencies are measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tvm_mpq.pipeline import selection
from tvm_mpq.pipeline.selection import settled_plans, stands
from tvm_mpq.schema import Budget
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.paired import exact
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
from tvm_mpq.select.quality import Quality, Tried


@pytest.mark.parametrize(
    "budget", [Budget(max_drop=0.5), Budget(size_mb=2.0), Budget(latency_ratio=0.7), Budget(latency_ms=1.0)]
)
def test_a_plan_within_the_noise_of_what_it_was_chosen_for_stays(budget: Budget) -> None:
    limited = budget.latency_ms is not None or budget.latency_ratio is not None
    assert stands(100.0, 100.0, budget) and stands(100.0, 90.0, budget)
    assert stands(100.0, 100.9, budget) is not limited
    assert not stands(100.0, 101.1, budget)


@pytest.mark.parametrize(
    ("max_drop", "wanted"), [(0.5, {"w4a8", "w6a8", "w8a8"}), (0.1, {"w4a8", "w8a8"}), (None, {"w4a8"})]
)
def test_nothing_is_predicted_of_what_may_be_built(
    max_drop: float | None, wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan, which may have been chosen for what it learned, and the fastest uniform one that keeps the drop.

    That is 8 bits once 6 are measured.
    """
    times = {"w4a8": 1.0, "w6a8": 2.0, "w8a8": 3.0}
    measured: set[str] = set()

    def problem() -> Problem:
        choices = tuple(Choice(p, 8, {8: us + 9 * (p in measured)}, 1, 0.1) for p, us in times.items())
        tensors = (Tensor("x", (8,), {}, fixed=8), Tensor("y", (8,), {}))
        return Problem((Operator("o", ("x",), "y", choices, (True,)),), tensors)

    def measure(context: Any, tables: Any, solution: Any) -> Any:
        new = {solution.choices["o"]} - measured
        measured.update(new)
        return SimpleNamespace(problem=problem()) if new else None

    monkeypatch.setattr(selection, "measure_chosen_predictions", measure)
    tables: Any = SimpleNamespace(problem=problem())
    drops = {"w4a8": 0.3, "w6a8": 0.2, "w8a8": 0.0}
    tried = [
        Tried(cost(tables.problem, {"o": p}), Quality(exact(drop), 0.1), "" if p == "w4a8" else f"uniform {p}")
        for p, drop in drops.items()
    ]
    context: Any = None
    settled, chosen, again = settled_plans(context, tables, tried[0], tried, max_drop)
    assert measured == wanted
    assert [t.solution.latency_us for t in again] == [times[p] + 9 * (p in measured) for p in times]
    assert chosen == again[0] and settled.problem == problem()
