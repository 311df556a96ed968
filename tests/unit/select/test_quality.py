"""What plans that were run are compared by."""

from __future__ import annotations

import pytest

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.paired import Interval
from tvm_mpq.select.quality import NEAR_TIE, Quality, Tried, fastest_uniform, near_ties


def tried(us: float, high: float, name: str = "", label: str | None = None) -> Tried:
    choices = {"conv": label or f"{us} {name}"}
    solution = Solution(choices, {}, (), {}, us, 1, 0.1, None, "latency", us, us, 0.0, "optimal", 0.1, "none")
    return Tried(solution, Quality(Interval(0.0, -1.0, high, 9), 0.1), name)


@pytest.mark.parametrize(("high", "kept"), [(0.5, True), (0.4, True), (0.5000001, False), (float("inf"), False)])
def test_a_drop_is_kept_by_the_upper_bound(high: float, kept: bool) -> None:
    assert tried(1.0, high).quality.keeps(0.5) is kept


def test_the_fastest_uniform_plan_keeps_the_drop_and_has_a_name() -> None:
    plans = [tried(5.0, 0.1, "uniform w8a8"), tried(3.0, 0.1, "uniform w7a8"), tried(2.0, 0.6, "uniform w2a2")]
    assert fastest_uniform([*plans, tried(1.0, 0.1)], 0.5) is plans[1]
    assert fastest_uniform([plans[2], tried(1.0, 0.1)], 0.5) is None


def test_near_ties_are_other_plans_hardly_slower_that_keep_the_drop() -> None:
    chosen = tried(100.0, 0.1)
    near, faster = tried(100.0 * (1 + NEAR_TIE), 0.5), tried(90.0, 0.2)
    far, lossy = tried(100.0 * (1 + NEAR_TIE) + 1e-6, 0.1), tried(99.0, 0.51)
    same = tried(99.5, 0.1, label=chosen.solution.choices["conv"])
    assert near_ties(chosen, [near, far, chosen, lossy, same, faster], 0.5) == [faster, near]
