import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.schema import Budget
from tvm_mpq.select.choose import limits_of
from tvm_mpq.select.ilp import solve
from tvm_mpq.select.nearest import nearest_budgets, out_of_reach, rounded_up
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor

INT8_US = 20.0


def one_operator(*choices):
    """Choices of (label, us, bytes): the quicker, the larger."""
    options = tuple(Choice(label, 32 if label == "fp32" else 8, {8: us}, size) for label, us, size in choices)
    conv = Operator("conv", ("x",), "y", options, (True,))
    return Problem((conv,), (Tensor("x", (8,), fixed=8), Tensor("y", (8,))))


TWO = one_operator(("w8a8", 8.0, 3_000_000), ("w4a8", 16.0, 1_000_000))


def nearest(budget, problem=TWO):
    return nearest_budgets(problem, budget, INT8_US, 10.0)


@pytest.mark.parametrize(
    ("budget", "least"),
    [
        (Budget(latency_ratio=0.1), Budget(latency_ratio=0.4)),
        (Budget(latency_ms=0.002), Budget(latency_ms=0.008)),
        (Budget(size_mb=0.5), Budget(size_mb=1.0)),
        (Budget(latency_ratio=0.1, latency_ms=0.5), Budget(latency_ratio=0.4, latency_ms=0.5)),
        (Budget(size_mb=0.5, max_drop=2.0), Budget(size_mb=1.0, max_drop=2.0)),
    ],
)
def test_the_answer_is_in_the_unit_of_the_question(budget, least):
    (found,) = nearest(budget)
    assert found.budget == least
    text = out_of_reach(TWO, budget, [found])
    name = found.relaxed[0]
    assert f"budget {name} {getattr(budget, name):g} is out of reach" in text
    assert f"{name} {getattr(least, name):g}, by 1 x w" in text


def test_budgets_that_conflict_are_relaxed_one_at_a_time_the_smaller_step_first():
    budget = Budget(latency_ratio=0.5, size_mb=1.5)
    found = nearest(budget)
    assert [n.budget for n in found] == [Budget(latency_ratio=0.8, size_mb=1.5), Budget(latency_ratio=0.5, size_mb=3.0)]
    text = out_of_reach(TWO, budget, found)
    assert "while size_mb 1.5 is kept is latency_ratio 0.8, by 1 x w4a8; or budget size_mb 1.5" in text


def test_where_one_is_not_enough_both_are():
    (found,) = nearest(Budget(latency_ratio=0.1, size_mb=0.5))
    assert found.budget == Budget(latency_ratio=0.4, size_mb=3.0) and found.excess == 6.0
    assert "is latency_ratio 0.4 and size_mb 3, by 1 x w8a8" in out_of_reach(TWO, Budget(0.1, None, 0.5), [found])


def test_a_share_above_one_is_none():
    slow = one_operator(("w4a8", 30.0, 1_000_000), ("fp32", 8.0, 9_000_000))
    by_latency = next(n for n in nearest(Budget(latency_ratio=0.5, size_mb=1.5), slow) if "latency_ratio" in n.relaxed)
    assert by_latency.budget == Budget(size_mb=1.5)
    assert "slower than 8 bit" in out_of_reach(slow, Budget(latency_ratio=0.5, size_mb=1.5), [by_latency])


@pytest.mark.parametrize("budget", [Budget(), Budget(max_drop=0.1), Budget(latency_ratio=0.4), Budget(size_mb=3.0)])
def test_what_can_be_kept_is_not_relaxed(budget):
    assert nearest(budget) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 0.99), size=st.floats(1e-7, 1e-5))
def test_what_is_proposed_can_be_kept(small_problem, brute, seed, share, size):
    problem = small_problem(seed)
    if not brute(problem):
        return
    for found in nearest(Budget(latency_ratio=share, size_mb=size), problem):
        solve(problem, limits_of(found.budget, INT8_US))


@given(st.floats(1e-9, 1e12))
def test_rounding_up_never_goes_below(value):
    assert value * (1 - 1e-12) <= rounded_up(value) <= value * 1.0011
