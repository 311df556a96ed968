"""The front between a cost (latency or size) and accuracy loss, by an epsilon-constraint sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.ilp import DEFAULT_TIME_LIMIT_SEC, Solution, solve
from tvm_mpq.select.problem import Limits, Problem

AXES = ("latency", "size")

_SAME = 1e-9  # relative difference below which two points are one


@dataclass(frozen=True)
class ParetoPoint:
    """One plan. cost: microseconds or bytes, by the axis. name: empty for points of the sweep, else as given."""

    cost: float
    loss: float
    solution: Solution
    name: str = ""
    dominated: bool = False


def front(
    problem: Problem,
    axis: str = "latency",
    points: int = 10,
    *,
    limits: Limits | None = None,
    given: Mapping[str, Mapping[str, str]] | None = None,
    time_limit_sec: float = DEFAULT_TIME_LIMIT_SEC,
) -> list[ParetoPoint]:
    """The least loss at evenly spaced costs from the cheapest plan to the least lossy one, and the given plans.

    Parameters
    ----------
    points : int
        Costs swept, both ends included; equal plans appear once, so that fewer may come back.
    limits : Limits
        Kept by every point of the sweep (not by given ones).
    given : {name: {operator: label}}
        Plans to be priced and shown beside the front, e.g. uniform ones.
    time_limit_sec : float
        For each solve.

    Returns
    -------
    list of ParetoPoint
        By ascending cost. `dominated` marks those that another point beats in cost and loss.

    Raises
    ------
    InfeasibleError
        If nothing is within `limits`, or a given plan cannot be built.
    """
    if axis not in AXES:
        raise InvalidValueError(f"axis must be one of {', '.join(AXES)} (got {axis!r})")
    if points < 2:
        raise InvalidValueError(f"points must be 2 or more (got {points})")
    base = limits or Limits()
    rest = tuple(q for q in ("latency", "size") if q != axis)
    cheapest = solve(problem, base, axis, time_limit_sec=time_limit_sec, then=("loss", *rest))
    accurate = solve(problem, base, "loss", time_limit_sec=time_limit_sec, then=(axis, *rest))
    swept = [_point(cheapest, axis)]
    span = _cost(accurate, axis) - swept[0].cost
    for i in range(1, points - 1):
        at_most = base.tightened(axis, swept[0].cost + span * i / (points - 1))
        swept.append(_point(solve(problem, at_most, "loss", time_limit_sec=time_limit_sec, then=(axis, *rest)), axis))
    swept.append(_point(accurate, axis))
    named = [_point(cost(problem, plan, time_limit_sec), axis, name) for name, plan in (given or {}).items()]
    every = sorted(_distinct(swept) + named, key=lambda p: (p.cost, p.loss))
    return [replace(p, dominated=d) for p, d in zip(every, dominated([(p.cost, p.loss) for p in every]), strict=True)]


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, loss): whether another point is no worse in both and better in one.

    >>> dominated([(1.0, 3.0), (2.0, 1.0), (2.0, 3.0)])
    [False, False, True]
    """
    return [any(_dominates(other, point) for other in points) for point in points]


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    better = [_less(x, y) for x, y in zip(a, b, strict=True)]
    worse = [_less(y, x) for x, y in zip(a, b, strict=True)]
    return any(better) and not any(worse)


def _less(a: float, b: float) -> bool:
    return b - a > _SAME * max(abs(a), abs(b))


def _distinct(points: list[ParetoPoint]) -> list[ParetoPoint]:
    """One point of each (cost, loss)."""
    kept: list[ParetoPoint] = []
    for point in points:
        if not any(_same(p.cost, point.cost) and _same(p.loss, point.loss) for p in kept):
            kept.append(point)
    return kept


def _same(a: float, b: float) -> bool:
    return not _less(a, b) and not _less(b, a)


def _cost(solution: Solution, axis: str) -> float:
    return solution.latency_us if axis == "latency" else float(solution.size_bytes)


def _point(solution: Solution, axis: str, name: str = "") -> ParetoPoint:
    return ParetoPoint(_cost(solution, axis), solution.loss, solution, name)
