"""Uniform plans of a problem: one precision everywhere, with or without first and last operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm_mpq.schema import Precision
from tvm_mpq.select.evaluate import uniform
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Problem

ENDS = ("w8a8", "fp32")
"""What first and last operator run at when they are left out, in order of preference."""


def weighted(problem: Problem) -> list[str]:
    """Operators with weights, in the network's order: the choices that make a plan."""
    return [o.name for o in problem.operators if any(o.exact_inputs)]


def uniform_plans(problem: Problem, *, but_ends: bool = False) -> dict[str, dict[str, str]]:
    """Every uniform plan: one label everywhere; w8a8 or fp32 where an operator has no kernel for it, floats fp32.

    but_ends: also `uniform <label>, ends w8a8`, of integer labels that differ from it. Plans that are equal after
    falling back appear once.
    """
    names = weighted(problem)
    labels = sorted({c.label for name in names for c in problem.operator(name).choices})
    plans: dict[str, dict[str, str]] = {}
    for label in labels:
        fallback = ("fp32",) if Precision.parse(label).is_float else ("w8a8", "fp32")
        found = uniform(problem, label, fallback)
        plans[f"uniform {label}"] = {name: found[name] for name in names if name in found}
    if but_ends:
        ends = uniform(problem, ENDS[0], ENDS[1:])
        for label in labels:
            if not Precision.parse(label).is_float and label != ENDS[0]:
                kept = {name: ends[name] for name in {names[0], names[-1]} if name in ends}
                plans[f"uniform {label}, ends {ENDS[0]}"] = {**plans[f"uniform {label}"], **kept}
    distinct: dict[str, dict[str, str]] = {}
    for name, plan in plans.items():
        if plan not in distinct.values():
            distinct[name] = plan
    return distinct


def middle(plans: Mapping[str, Solution]) -> str:
    """The name of the one in the middle by loss; what another beats in latency and loss both is left out."""
    useful = [
        n for n, s in plans.items() if not any(o.latency_us < s.latency_us and o.loss < s.loss for o in plans.values())
    ]
    return sorted(useful, key=lambda n: (plans[n].loss, plans[n].latency_us))[len(useful) // 2]


def has_no_more_bits(fewer: Solution, more: Solution, names: Sequence[str]) -> bool:
    """Whether a plan has at most as many bits as another in each of these operators, weights and activations."""
    pairs = ((Precision.parse(fewer.choices[n]), Precision.parse(more.choices[n])) for n in names)
    return all(a.weight_bits <= b.weight_bits and a.activation_bits <= b.activation_bits for a, b in pairs)
