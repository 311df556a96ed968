"""The front between a cost (latency or size) and accuracy loss, by an epsilon-constraint sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import IntegerProgram, Searcher

AXES = ("latency", "size", "energy")

_SAME = 1e-9  # relative difference below which two points are one


@dataclass(frozen=True)
class ParetoPoint:
    """One plan. cost: microseconds, bytes or millijoule, by the axis. name: as given, empty for points of the sweep."""

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
    searcher: Searcher | None = None,
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
    searcher : Searcher
        What finds each point; default: the integer program, whose points are proven.

    Returns
    -------
    list of ParetoPoint
        By ascending cost. `dominated` marks those that another point beats in cost and loss: given ones, and what a
        searcher that proves nothing found too late.

    Raises
    ------
    InfeasibleError
        If nothing is within `limits`, or a given plan cannot be built.
    InvalidValueError
        For the axis `energy` where a choice has none.
    """
    if axis not in AXES:
        raise InvalidValueError(f"axis must be one of {', '.join(AXES)} (got {axis!r})")
    if points < 2:
        raise InvalidValueError(f"points must be 2 or more (got {points})")
    base = limits or Limits()
    searcher = searcher or IntegerProgram()
    rest = tuple(q for q in ("latency", "size") if q != axis)
    cheapest = searcher.best(problem, base, axis, ("loss", *rest))
    accurate = searcher.best(problem, base, "loss", (axis, *rest))
    swept = [_point(cheapest, axis)]
    span = _cost(accurate, axis) - swept[0].cost
    for i in range(1, points - 1):
        at_most = base.tightened(axis, swept[0].cost + span * i / (points - 1))
        swept.append(_point(searcher.best(problem, at_most, "loss", (axis, *rest)), axis))
    swept.append(_point(accurate, axis))
    named = [_point(cost(problem, plan), axis, name) for name, plan in (given or {}).items()]
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
    return solution.quantity(axis)


def _point(solution: Solution, axis: str, name: str = "") -> ParetoPoint:
    return ParetoPoint(_cost(solution, axis), solution.loss, solution, name)
