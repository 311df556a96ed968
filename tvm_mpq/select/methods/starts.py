"""Plans that methods begin with."""

from __future__ import annotations

from tvm_mpq.select.methods.completion import ChoiceIndices, Completion
from tvm_mpq.select.methods.search import Search
from tvm_mpq.select.problem import Choice
from tvm_mpq.select.uniforms import ENDS


def alone(search: Search) -> ChoiceIndices:
    """The best objective of every operator by itself, boundaries left out."""

    def key(choice: Choice) -> tuple[float, float]:
        us = min(choice.latency_us.values())
        values = {"latency": us, "loss": choice.loss, "size": choice.size_bytes, "energy": choice.energy_mj or 0.0}
        return values[search.objective], us if search.objective != "latency" else choice.loss

    return tuple(min(range(len(c)), key=lambda i: key(c[i])) for c in search.completion.choices)


def ends_held(completion: Completion, labels: ChoiceIndices) -> ChoiceIndices:
    """The same with first and last operator at 8 bits, or in floats where there is no such choice."""
    held = list(labels)
    for i in {0, len(labels) - 1} if labels else ():
        names = [c.label for c in completion.choices[i]]
        held[i] = next((names.index(label) for label in ENDS if label in names), held[i])
    return tuple(held)


def uniforms(completion: Completion) -> list[ChoiceIndices]:
    """Every label that is offered, everywhere; 8 bit, floats or the first choice where it is not."""
    offered = [[c.label for c in choices] for choices in completion.choices]
    plans = []
    for label in sorted({label for labels in offered for label in labels}):
        order = (label, *ENDS)
        plans.append(tuple(next((own.index(n) for n in order if n in own), 0) for own in offered))
    return list(dict.fromkeys(plans))
