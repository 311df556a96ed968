"""Why nothing fits: which limit binds, and what the least feasible value is."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.model import LIMIT_TOLERANCE
from tvm_mpq.select.problem import Limits

Least = Callable[[str, Limits, bool], "tuple[float, float] | None"]
"""(quantity, limits kept, whether the cuts hold) -> (least value found, bound below it), or None if infeasible."""

_UNITS = {"latency": " us", "size": " bytes", "energy": " mJ", "loss": ""}


def explain(limits: Limits, cuts: int, least: Least) -> InfeasibleError:
    """The error for limits that nothing satisfies.

    First each limit by itself; if none of them is out of reach alone, a smallest group that cannot be kept together,
    with the least value of each member while the others are kept.
    """
    active = dict(limits.active())
    besides = f"besides the {cuts} forbidden: " if cuts else ""
    free = least("latency", Limits(), True)
    if free is None:
        if cuts and least("latency", Limits(), False) is not None:
            return InfeasibleError(f"no further solution: all that exist are among the {cuts} forbidden")
        return InfeasibleError(
            "no choices and tensor formats fit together even without a budget; "
            "give the operators more choices or the tensors more conversions"
        )
    alone = [_alone(q, value, least(q, Limits(), True)) for q, value in active.items()]
    out_of_reach = [text for text in alone if text]
    if out_of_reach:
        return InfeasibleError(besides + "; ".join(out_of_reach) + "; raise the budget to at least that")
    group = _conflict(limits, list(active), least)
    kept = " and ".join(_limit_text(q, active[q]) for q in group)
    ways = []
    for quantity in group:
        others = [q for q in group if q != quantity]
        found = least(quantity, limits.only(others), True)
        if found is not None:
            held = " and ".join(_limit_text(q, active[q]) for q in others)
            ways.append(f"with {held}, {_least_text(quantity, *found)}")
    return InfeasibleError(f"{besides}no plan keeps {kept} together: " + "; ".join(ways) + "; raise one of them")


def _conflict(limits: Limits, quantities: list[str], least: Least) -> list[str]:
    """The limits that cannot all be kept, without any whose removal does not help."""
    group = quantities
    for quantity in quantities:
        fewer = [q for q in group if q != quantity]
        if len(fewer) > 1 and least(fewer[0], limits.only(fewer), True) is None:
            group = fewer
    return group


def _alone(quantity: str, value: float, found: tuple[float, float] | None) -> str:
    """Why a limit is out of reach by itself; empty when it is not."""
    if found is None or found[1] <= value + LIMIT_TOLERANCE * abs(value):
        return ""
    return f"{_limit_text(quantity, value)} is out of reach even without other budgets: {_least_text(quantity, *found)}"


def _limit_text(quantity: str, value: float) -> str:
    return f"{quantity} <= {value:.7g}{_UNITS[quantity]}"


def _least_text(quantity: str, value: float, bound: float) -> str:
    if math.isinf(value):
        return f"the least feasible {quantity} is above {bound:.7g}{_UNITS[quantity]} (not found in the time given)"
    text = f"the least feasible {quantity} is {value:.7g}{_UNITS[quantity]}"
    proven = value - bound <= 1e-6 * abs(value)
    return text if proven else f"{text} as far as found, and never below {bound:.7g}"
