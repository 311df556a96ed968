"""Points of a search's trace as JSON keeps them."""

from __future__ import annotations

import json
import math

import pytest

from tvm_mpq.select.methods.effort import Effort, TracePoint


@pytest.mark.parametrize("point", [TracePoint(3, 1.5, 0.25, 0.5), TracePoint(0, math.inf, math.inf, 0.0)])
def test_rows_of_json_come_back(point: TracePoint) -> None:
    row = point.row()
    assert TracePoint.of(json.loads(json.dumps(row, allow_nan=False))) == point
    assert [x is None for x in row] == [not math.isfinite(x) for x in vars(point).values()]
    assert type(TracePoint.of(row).evaluations) is int


def test_the_least_effort_there_is() -> None:
    Effort(evaluations=1)
    Effort(seconds=1e-9, clock=lambda: 0.0)
    assert Effort().seed == 0
