"""Plans between the fastest and the least lossy one, as rows of a report."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.pipeline.tables import Tables
from tvm_mpq.report.contract import FrontPoint
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.pareto import ParetoPoint, front
from tvm_mpq.select.searcher import IntegerProgram
from tvm_mpq.select.uniforms import uniform_plans, weighted

PICTURE_POINTS = 8
PICTURE_SECONDS = 0.5
"""Of the solver for each point that is only drawn: what is not proven by then is drawn as it is."""


def front_point(point: ParetoPoint, names: Sequence[str]) -> FrontPoint:
    """names: operators whose precisions make the plan."""
    solution = point.solution
    return {
        "name": point.name,
        "latency_ms": solution.latency_us / 1000,
        "size_mb": solution.size_bytes / 1e6,
        "energy_mj": solution.energy_mj,
        "loss": solution.loss,
        "dominated": point.dominated,
        "plan": {n: solution.choices[n] for n in names},
        "gap": solution.gap,
        "status": solution.status,
        "evaluations": solution.evaluations,
    }


def picture_points(tables: Tables, chosen: Solution, time_limit_sec: float) -> list[FrontPoint]:
    """The front of the tables, every uniform plan and the chosen one, which is called `chosen`."""
    problem = tables.problem
    names = sorted(weighted(problem))
    given = {**uniform_plans(problem), "chosen": {name: chosen.choices[name] for name in names}}

    def swept(seconds: float) -> list[ParetoPoint]:
        return front(problem, "latency", PICTURE_POINTS, searcher=IntegerProgram(seconds), given=given)

    try:
        found = swept(min(time_limit_sec, PICTURE_SECONDS))
    except InvalidValueError:  # too short to find any plan at all
        found = swept(time_limit_sec)
    return [front_point(point, names) for point in found]
