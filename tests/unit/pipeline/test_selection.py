"""Selecting: what becomes of a plan whose predicted latencies are measured."""

from __future__ import annotations

import pytest

from tvm_mpq.pipeline.selection import stands
from tvm_mpq.schema import Budget


@pytest.mark.parametrize(
    "budget", [Budget(max_drop=0.5), Budget(size_mb=2.0), Budget(latency_ratio=0.7), Budget(latency_ms=1.0)]
)
def test_a_plan_within_the_noise_of_what_it_was_chosen_for_stays(budget: Budget) -> None:
    limited = budget.latency_ms is not None or budget.latency_ratio is not None
    assert stands(100.0, 100.0, budget) and stands(100.0, 90.0, budget)
    assert stands(100.0, 100.9, budget) is not limited
    assert not stands(100.0, 101.1, budget)
