"""Completed plans against trying everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.select.methods import elimination
from tvm_mpq.select.methods.completion import Completion
from tvm_mpq.select.methods.elimination import TooWideError, least
from tvm_mpq.select.pricing import price, total
from tvm_mpq.select.problem import QUANTITIES, Choice, Operator, Problem, Tensor

SEEDS = st.integers(0, 10**6)


def least_latency(problem, brute):
    """Labels of the operators with weights -> the least latency of any plan that has them."""
    names = Completion(problem).names
    found = {}
    for labels, _, values in brute(problem):
        key = tuple(labels[name] for name in names)
        found[key] = min(found.get(key, np.inf), values["latency"])
    return found


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_fastest_way_is_found(small_problem, brute, seed):
    problem = small_problem(seed)
    completion, known = Completion(problem), least_latency(problem, brute)
    for labels in itertools.product(*(range(len(c)) for c in completion.choices)):
        found = completion.complete(labels)
        key = tuple(completion.choices[i][c].label for i, c in enumerate(labels))
        assert (found is None) == (key not in known)
        if found is not None:
            assert found.latency_us == pytest.approx(known[key], abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_totals_are_those_of_the_judge_however_a_plan_is_reached(small_problem, seed):
    problem = small_problem(seed)
    completion = Completion(problem)
    plans = [completion.complete(v) for v in itertools.product(*(range(len(c)) for c in completion.choices))]
    buildable = [p for p in plans if p is not None]
    for plan, other in itertools.pairwise(buildable):
        changes = {i: c for i, c in enumerate(other.labels) if c != plan.labels[i]}
        moved = completion.moved(plan, changes)
        assert (moved.labels, moved.columns) == (other.labels, other.columns)
        judged = price(problem, *completion.assignment(moved))
        for quantity in QUANTITIES:
            assert total(moved, quantity) == pytest.approx(judged.quantity(quantity), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_groups_too_wide_still_give_plans_that_exist(small_problem, brute, seed):
    problem = small_problem(seed)
    known = least_latency(problem, brute)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "WIDEST", 0)
        completion = Completion(problem)
        for labels in itertools.product(*(range(len(c)) for c in completion.choices)):
            found = completion.complete(labels)
            key = tuple(completion.choices[i][c].label for i, c in enumerate(labels))
            if found is not None:
                assert found.latency_us >= known[key] - 1e-9
                assert price(problem, *completion.assignment(found)).latency_us == pytest.approx(found.latency_us)


def test_of_formats_that_cost_the_same_the_one_with_more_bits():
    tensors = (Tensor("x", (32,), fixed=32), Tensor("y", (4, 8, 2)), Tensor("z", (8,)))
    conv = Operator("conv", ("x",), "y", (Choice("fp32", 32, {8: 1.0}),), (True,))
    add = Operator("add", ("y",), "z", (Choice("a8", 8, {8: 1.0}),), (False,))
    completion = Completion(Problem((conv, add), tensors))
    assert completion.assignment(completion.complete((0,)))[1]["y"] == 8


def test_elimination_equals_trying_everything(rng):
    sizes = dict(zip("abcde", (2, 3, 4, 3, 2), strict=True))
    scopes = [("a", "b"), ("b", "c", "d"), ("d", "e"), ("e", "a"), ("c",)]
    tables = [(s, np.where(rng.random([sizes[n] for n in s]) < 0.2, np.inf, rng.normal(size=[sizes[n] for n in s])))
              for s in scopes]  # fmt: skip
    values = {
        point: sum(t[tuple(point["abcde".index(n)] for n in s)] for s, t in tables)
        for point in itertools.product(*(range(n) for n in sizes.values()))
    }
    value, found = least(tables, sizes)
    assert value == pytest.approx(min(values.values()))
    assert values[tuple(found[n] for n in "abcde")] == pytest.approx(value)


def test_tables_too_wide_are_refused(monkeypatch):
    monkeypatch.setattr(elimination, "WIDEST", 3)
    with pytest.raises(TooWideError):
        least([(("a", "b"), np.zeros((2, 2)))], {"a": 2, "b": 2})
