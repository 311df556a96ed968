"""The front that a report draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.pipeline import front
from tvm_mpq.pipeline.tables import Tables
from tvm_mpq.select.ilp import Solution, solve
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
from tvm_mpq.select.searcher import IntegerProgram


def test_where_a_second_finds_no_plan_the_solver_gets_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a job of minutes would end without its report."""
    choices = (Choice("w8a8", 8, {8: 2.0}, 1, 0.0), Choice("w4a8", 8, {8: 1.0}, 1, 0.5))
    tensors = tuple(Tensor(f"t{i}", (8,), {}, fixed=8 if i == 0 else None) for i in range(4))
    rows = tuple(Operator(f"o{i}", (f"t{i}",), f"t{i + 1}", choices, (True,)) for i in range(3))
    problem = Problem(rows, tensors)
    asked: list[float] = []

    class Hurried(IntegerProgram):
        def best(self, *args: Any, **more: Any) -> Solution:
            asked.append(self._time_limit_sec)
            if self._time_limit_sec <= front.PICTURE_SECONDS:
                raise InvalidValueError("time_limit_sec must be long enough to find any solution")
            return super().best(*args, **more)

    monkeypatch.setattr(front, "IntegerProgram", Hurried)
    chosen: Solution = solve(problem)
    points = front.picture_points(cast(Tables, SimpleNamespace(problem=problem)), chosen, 30.0)
    assert asked[:2] == [front.PICTURE_SECONDS, 30.0]
    assert {point["latency_ms"] for point in points} >= {0.003, 0.006}
