"""The nearest budget that can be kept, in the units it was given in, and the plan that reaches it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Budget, precision_counts
from tvm_mpq.select.choose import limits_of
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import IntegerProgram
from tvm_mpq.select.uniforms import weighted

_DIGITS = 4
"""Significant digits of a budget that is proposed; it is rounded up, so that it can be kept as it is typed."""


@dataclass(frozen=True)
class NearestBudget:
    """relaxed: fields of `Budget` that had to be; excess: the largest of their factors; solution: a plan within it."""

    budget: Budget
    relaxed: tuple[str, ...]
    excess: float
    solution: Solution


def nearest_budgets(
    problem: Problem, budget: Budget, int8_latency_us: float, time_limit_sec: float
) -> list[NearestBudget]:
    """Ways to relax the latency or the size of a budget until a plan keeps it, the smallest step first.

    Each relaxes one of them as little as can be while the other is kept; both, where that does not help. Empty where
    latency and size can be kept, or no plan exists at all.
    """
    limits = limits_of(budget, int8_latency_us)
    wanted = dict(limits.active())
    program = IntegerProgram(time_limit_sec)

    def least(quantity: str, kept: Limits) -> Solution | None:
        try:
            return program.best(problem, kept, quantity)
        except InfeasibleError:
            return None

    found = []
    for quantity in wanted:
        solution = least(quantity, limits.only([q for q in wanted if q != quantity]))
        if solution is not None:
            if solution.quantity(quantity) <= wanted[quantity]:
                return []
            found.append(_relaxed(budget, int8_latency_us, solution, [quantity]))
    if not found and len(wanted) > 1:
        fastest = least("latency", Limits())
        if fastest is not None:
            solution = least("size", Limits(latency_us=fastest.latency_us * (1 + 1e-9)))
            found.append(_relaxed(budget, int8_latency_us, solution or fastest, list(wanted)))
    return sorted(found, key=lambda n: n.excess)


def _relaxed(budget: Budget, int8_latency_us: float, solution: Solution, quantities: Sequence[str]) -> NearestBudget:
    units = {"latency_ratio": ("latency", int8_latency_us), "latency_ms": ("latency", 1e3), "size_mb": ("size", 1e6)}
    changed: dict[str, float | None] = {}
    excess = 1.0
    for name, (quantity, unit) in units.items():
        limit = getattr(budget, name)
        value = solution.quantity(quantity) / unit
        if quantity in quantities and limit is not None and value > limit:
            allowed = rounded_up(value)
            # A share above 1 is no budget: slower than 8 bit is then allowed.
            changed[name] = None if name == "latency_ratio" and allowed > 1 else allowed
            excess = max(excess, value / limit)
    return NearestBudget(dataclasses.replace(budget, **changed), tuple(changed), excess, solution)


def rounded_up(value: float) -> float:
    """To four significant digits.

    >>> rounded_up(0.53121), rounded_up(12.0), rounded_up(123456.0)
    (0.5313, 12.0, 123500.0)
    """
    size = 10.0 ** (math.floor(math.log10(value)) - _DIGITS + 1)
    steps = math.ceil(value / size - 1e-9)
    return float(f"{steps * size:.{_DIGITS}g}")


def out_of_reach(problem: Problem, budget: Budget, found: Sequence[NearestBudget]) -> str:
    """One line: what cannot be kept, and the least that can, with the plan that does."""
    ways = []
    for nearest in found:
        kept = [name for name in _given(budget) if name not in nearest.relaxed and name != "max_drop"]
        besides = f" while {' and '.join(f'{n} {getattr(budget, n):g}' for n in kept)} is kept" if kept else ""
        asked = " and ".join(f"{name} {getattr(budget, name):g}" for name in nearest.relaxed)
        least = " and ".join(_least(nearest.budget, name) for name in nearest.relaxed)
        plan = precision_counts(nearest.solution.choices[name] for name in weighted(problem))
        ways.append(f"budget {asked} is out of reach: the least feasible{besides} is {least}, by {plan}")
    return "; or ".join(ways)


def _least(budget: Budget, name: str) -> str:
    value = getattr(budget, name)
    return f"{name} {value:g}" if value is not None else f"{name} above 1, which is slower than 8 bit"


def _given(budget: Budget) -> list[str]:
    return [f.name for f in dataclasses.fields(budget) if getattr(budget, f.name) is not None]
