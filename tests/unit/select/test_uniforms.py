"""Uniform plans of a made-up problem."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
from tvm_mpq.select.uniforms import middle, uniform_plans, weighted


def operator(name: str, source: str, output: str, *labels: str, weights: bool = True) -> Operator:
    choices = tuple(Choice(label, 32 if label in ("fp32", "bf16") else 8, {32: 1.0}) for label in labels)
    return Operator(name, (source,), output, choices, (weights,))


@pytest.fixture
def problem() -> Problem:
    """The first operator has no 4 bit kernel, the last none for integers; a pooling stands between."""
    tensors = tuple(Tensor(f"t{i}", (32, 8), fixed=32 if i == 0 else None) for i in range(5))
    operators = (
        operator("first", "t0", "t1", "fp32", "w8a8"),
        operator("pool", "t1", "t2", "fp32", "a8", weights=False),
        operator("middle", "t2", "t3", "fp32", "bf16", "w8a8", "w4a8"),
        operator("last", "t3", "t4", "fp32"),
    )
    return Problem(operators, tensors)


def test_weighted_operators_in_order(problem: Problem) -> None:
    assert weighted(problem) == ["first", "middle", "last"]


def test_one_label_everywhere_with_fallbacks(problem: Problem) -> None:
    assert uniform_plans(problem) == {
        "uniform bf16": {"first": "fp32", "middle": "bf16", "last": "fp32"},
        "uniform fp32": {"first": "fp32", "middle": "fp32", "last": "fp32"},
        "uniform w4a8": {"first": "w8a8", "middle": "w4a8", "last": "fp32"},
        "uniform w8a8": {"first": "w8a8", "middle": "w8a8", "last": "fp32"},
    }


def test_plans_that_become_equal_appear_once(problem: Problem) -> None:
    """Here first and last fall back to what they are without the ends."""
    assert uniform_plans(problem, but_ends=True) == uniform_plans(problem)


def test_all_but_the_ends() -> None:
    tensors = tuple(Tensor(f"t{i}", (32, 8), fixed=32 if i == 0 else None) for i in range(4))
    operators = tuple(operator(f"o{i}", f"t{i}", f"t{i + 1}", "fp32", "w8a8", "w4a8") for i in range(3))
    plans = uniform_plans(Problem(operators, tensors), but_ends=True)
    assert plans["uniform w4a8, ends w8a8"] == {"o0": "w8a8", "o1": "w4a8", "o2": "w8a8"}
    assert set(plans) == {"uniform fp32", "uniform w8a8", "uniform w4a8", "uniform w4a8, ends w8a8"}


def test_nothing_to_choose() -> None:
    assert uniform_plans(Problem((), ()), but_ends=True) == {}


def test_the_middle_is_of_plans_that_no_other_beats() -> None:
    found = {
        name: cast(Solution, SimpleNamespace(latency_us=us, loss=loss))
        for name, us, loss in [
            ("a", 9.0, 0.0),
            ("b", 4.0, 0.1),
            ("slow", 5.0, 0.2),
            ("slower", 6.0, 0.3),
            ("c", 2.0, 0.4),
        ]
    }
    assert middle(found) == "b"
    assert middle({n: s for n, s in found.items() if n != "b"}) == "slow"
