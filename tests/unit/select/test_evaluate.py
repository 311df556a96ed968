import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InfeasibleError, InvalidValueError
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), pick=st.integers(0, 10**6))
def test_formats_are_the_fastest_for_the_given_choices(small_problem, brute, seed, pick):
    every = brute(small_problem(seed))
    if not every:
        return
    labels = every[pick % len(every)][0]
    found = cost(small_problem(seed), labels)
    assert found.choices == labels
    assert found.latency_us == min(a[2]["latency"] for a in every if a[0] == labels)


def test_operators_left_out_take_their_fastest_choice(network):
    problem = network(6)
    plan = uniform(problem, "w8a8")
    partial = {o: label for o, label in plan.items() if o != "conv3"}
    assert cost(problem, partial).latency_us < cost(problem, plan).latency_us
    assert set(cost(problem, plan).choices.values()) == {"w8a8"}


def _mixed():
    conv = Operator("conv", ("x",), "y", (Choice("w8a8", 8, {8: 1.0}), Choice("fp32", 32, {8: 4.0})), (True,))
    add = Operator("add", ("y", "y"), "z", (Choice("a8", 8, {32: 1.0}),), (False, False))
    return Problem((conv, add), (Tensor("x", (32,), fixed=32), Tensor("y", (8,)), Tensor("z", (32,), required=32)))


def test_uniform_falls_back_and_leaves_what_has_no_weights_out():
    assert uniform(_mixed(), "w4a8", ("w8a8",)) == {"conv": "w8a8"}
    assert uniform(_mixed(), "fp32") == {"conv": "fp32"}
    assert uniform(_mixed(), "w2a4") == {}


def test_choices_that_no_format_serves_are_infeasible():
    assert cost(_mixed(), {"conv": "fp32"}).latency_us == 5.0
    with pytest.raises(InfeasibleError, match="fit together even without a budget"):
        cost(_mixed(), {"conv": "w8a8"})
    with pytest.raises(InvalidValueError, match="operator 'conv' has the choices w8a8, fp32"):
        cost(_mixed(), {"conv": "w4a8"})
