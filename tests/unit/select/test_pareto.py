import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.ilp import Limits
from tvm_mpq.select.pareto import AXES, dominated, front
from tvm_mpq.select.searcher import IntegerProgram


@pytest.mark.parametrize("axis", ["latency", "size"])
def test_loss_falls_as_cost_rises(network, axis):
    problem = network(10)
    names = {label: uniform(problem, label) for label in ("fp32", "w8a8", "w4a4")}
    found = front(problem, axis, 6, given=names)
    assert sorted(p.name for p in found if p.name) == sorted(names)
    swept = [p for p in found if not p.name]
    assert 2 <= len(swept) <= 6
    assert not any(p.dominated for p in swept)
    assert all(a.cost < b.cost and a.loss > b.loss for a, b in itertools.pairwise(swept))
    costs = [p.cost for p in found]
    assert costs == sorted(costs)
    assert all(p.cost == (p.solution.latency_us if axis == "latency" else p.solution.size_bytes) for p in found)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), axis=st.sampled_from(AXES))
def test_every_point_is_on_the_true_front(small_problem, brute, seed, axis):
    problem = small_problem(seed, sizes=(2, 3))
    every = [(a[2][axis], a[2]["loss"]) for a in brute(problem)]
    if not every:
        return
    found = front(problem, axis, points=4)
    for point in found:
        assert not any(c <= point.cost and v <= point.loss and (c, v) != (point.cost, point.loss) for c, v in every)
    assert found[0].cost == min(c for c, _ in every)
    assert found[-1].loss == min(v for _, v in every)


def test_limits_hold_along_the_front(network):
    found = front(network(6), points=3, limits=Limits(loss=0.3))
    assert all(p.loss <= 0.3 for p in found)


def test_the_searcher_finds_the_points(network):
    """One that always answers fp32 makes a front of one point."""
    problem = network(3)
    asked = []

    class Floats(IntegerProgram):
        def best(self, problem, limits, objective, then=None):
            asked.append((objective, limits, then))
            return cost(problem, uniform(problem, "fp32"))

    found = front(problem, points=3, searcher=Floats())
    assert [set(p.solution.choices.values()) for p in found] == [{"fp32"}]
    assert asked[0] == ("latency", Limits(), ("loss", "size"))
    assert [objective for objective, _, _ in asked] == ["latency", "loss", "loss"]


def test_a_beaten_plan_is_marked(network):
    problem = network(6)
    plans = {"w1a8": uniform(problem, "w1a8"), "fp32": uniform(problem, "fp32")}
    marks = {p.name: p.dominated for p in front(problem, points=12, given=plans) if p.name}
    assert marks["fp32"] is False  # nothing has less loss


def test_dominated():
    assert dominated([(1, 3), (2, 2), (3, 1)]) == [False] * 3
    assert dominated([(1, 1), (1, 1)]) == [False, False]  # equal points do not beat each other
    assert dominated([(1, 1), (1, 2), (2, 1), (0, 5)]) == [False, True, True, False]
    assert dominated([]) == []


@pytest.mark.parametrize("arguments, text", [({"axis": "loss"}, "axis must be one of"), ({"points": 1}, "2 or more")])
def test_bad_arguments(network, arguments, text):
    with pytest.raises(InvalidValueError, match=text):
        front(network(2), **arguments)
