"""Why an operator of a plan is in floats or has 1-bit weights: the plan priced again with it at its next best label."""

from __future__ import annotations

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Precision
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Problem
from tvm_mpq.select.uniforms import weighted

USUAL = "w8a8"


def unusual(label: str) -> bool:
    """Whether a reader will ask why: floats, and weights of one bit."""
    precision = Precision.parse(label)
    return precision.is_float or precision.weight_bits == 1


def next_best(problem: Problem, name: str, label: str) -> str | None:
    """What an operator would be otherwise: 8 bit in the place of floats, one step more bits in the place of one."""
    others = [c.label for c in problem.operator(name).choices if c.label != label]
    integers = {text: Precision.parse(text) for text in others if not Precision.parse(text).is_float}
    if Precision.parse(label).is_float:
        if USUAL in integers:
            return USUAL
        return max(integers, key=lambda text: integers[text], default=None)
    same = Precision.parse(label).activation_bits
    wider = [text for text, p in integers.items() if p.activation_bits == same]
    return min(wider or integers, key=lambda text: integers[text], default=others[0] if others else None)


def swapped(problem: Problem, solution: Solution, name: str) -> Solution | None:
    """The solution with one operator at its next best label and tensor formats that suit; None without one."""
    label = next_best(problem, name, solution.choices[name])
    if label is None:
        return None
    try:
        return cost(problem, {n: solution.choices[n] for n in weighted(problem)} | {name: label})
    except InfeasibleError:  # no tensor formats fit
        return None


def reasons(problem: Problem, solution: Solution) -> dict[str, str]:
    """Operator -> why it is in floats or of 1-bit weights, for all that are.

    A plan in floats throughout was chosen as a whole, and has no reasons of single operators.
    """
    names = weighted(problem)
    if all(Precision.parse(solution.choices[name]).is_float for name in names):
        return {}
    return {name: _reason(problem, solution, name) for name in names if unusual(solution.choices[name])}


def _reason(problem: Problem, solution: Solution, name: str) -> str:
    operator, label = problem.operator(name), solution.choices[name]
    here = operator.choice(label)
    us = min(here.latency_us.values())
    kind = "integers" if Precision.parse(label).is_float else "more bits"
    other = next_best(problem, name, label)
    if other is None:
        return f"{label}: no kernel for {kind} fits it, or its output is not finite there"
    found = swapped(problem, solution, name)
    if found is None:
        return f"{label}: {us:.1f} us; at {other} no tensor formats fit"
    more = found.latency_us - solution.latency_us
    loss, total = operator.choice(other).loss - here.loss, solution.loss
    if more > 0:
        return f"{label}: {us:.1f} us; at {other} the network would take {more:.1f} us more, conversions included"
    return f"{label}: at {other} the network would be {-more:.1f} us faster, but lose {loss:.2g} more (now {total:.2g})"
