"""Where one plan's latency differs from another's, by the tables: operators, conversions, the rest."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Problem, emitted_class
from tvm_mpq.select.uniforms import weighted


@dataclass(frozen=True)
class LatencyStep:
    """Part of the way from one latency to another. name: an operator with weights, or `CONVERSIONS`, or `REST`."""

    name: str
    change_us: float


CONVERSIONS = "conversions between formats"
REST = "operators without weights"


def waterfall(problem: Problem, start: Solution, end: Solution) -> list[LatencyStep]:
    """Steps whose sum is the latency of `end` less that of `start`; operators that cost the same are left out."""
    names = set(weighted(problem))

    def kernels(solution: Solution) -> dict[str, float]:
        return {
            o.name: o.choice(solution.choices[o.name]).latency_us[emitted_class(solution.formats[o.output])]
            for o in problem.operators
        }

    def converted(solution: Solution) -> float:
        pairs = price(problem, solution.choices, solution.formats).conversions
        return sum(problem.tensor_by_name[name].convert_us[source, to] + problem.call_us for name, source, to in pairs)

    before, after = kernels(start), kernels(end)
    steps = [LatencyStep(o.name, after[o.name] - before[o.name]) for o in problem.operators if o.name in names]
    steps.append(LatencyStep(CONVERSIONS, converted(end) - converted(start)))
    others = (name for name in before if name not in names)
    steps.append(LatencyStep(REST, sum(after[name] - before[name] for name in others)))
    return [step for step in steps if step.change_us]
