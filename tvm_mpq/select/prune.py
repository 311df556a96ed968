"""Choices that no budget makes worth taking, each with the choice that beats it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm_mpq.select.problem import Choice, Problem


@dataclass(frozen=True)
class Pruned:
    """A choice left out, and why, in words for a report. operator is empty where choices were given without one."""

    label: str
    beaten_by: str
    reason: str
    operator: str = ""


def prune_dominated(choices: Sequence[Choice]) -> tuple[tuple[Choice, ...], tuple[Pruned, ...]]:
    """The choices worth keeping, in their order, and those left out.

    A choice is left out when another with the same input format emits all that it emits and is no slower, no larger, no
    lossier (and no hungrier, where energy is known) in any of it. Of equal choices the first stays.
    """
    order = range(len(choices))
    beaten = [any(_beats(choices[j], choices[i], earlier=j < i) for j in order if j != i) for i in order]
    kept = tuple(c for c, out in zip(choices, beaten, strict=True) if not out)
    pruned: list[Pruned] = []
    for i in order:
        if beaten[i]:  # by a chain that ends at a kept choice, which beats it as well
            rival = next(choices[j] for j in order if not beaten[j] and _beats(choices[j], choices[i], earlier=j < i))
            pruned.append(Pruned(choices[i].label, rival.label, _reason(rival, choices[i])))
    return kept, tuple(pruned)


def prune_problem(problem: Problem) -> tuple[Problem, tuple[Pruned, ...]]:
    """The problem without dominated choices; the least loss, latency and size within any limits stay the same."""
    operators = []
    every: list[Pruned] = []
    for operator in problem.operators:
        kept, pruned = prune_dominated(operator.choices)
        operators.append(replace(operator, choices=kept))
        every += [replace(p, operator=operator.name) for p in pruned]
    return replace(problem, operators=tuple(operators)), tuple(every)


def _beats(rival: Choice, choice: Choice, earlier: bool) -> bool:
    if rival.in_bits != choice.in_bits or not set(choice.latency_us) <= set(rival.latency_us):
        return False
    if (rival.energy_mj is None) != (choice.energy_mj is None):
        return False  # what is unknown cannot be compared
    pairs = _pairs(rival, choice)
    never_worse = all(r <= c for r, c in pairs)
    more = len(rival.latency_us) > len(choice.latency_us)
    return never_worse and (more or earlier or any(r < c for r, c in pairs))


def _pairs(rival: Choice, choice: Choice) -> list[tuple[float, float]]:
    pairs = [(rival.latency_us[k], us) for k, us in choice.latency_us.items()]
    pairs += [(rival.size_bytes, choice.size_bytes), (rival.loss, choice.loss)]
    if rival.energy_mj is not None and choice.energy_mj is not None:
        pairs.append((rival.energy_mj, choice.energy_mj))
    return pairs


def _reason(rival: Choice, choice: Choice) -> str:
    times = ", ".join(
        f"{rival.latency_us[k]:.4g} to {us:.4g} us emitting {'float32' if k == 32 else 'integers'}"
        for k, us in sorted(choice.latency_us.items())
    )
    return (
        f"{choice.label} is never better than {rival.label}: {rival.label} takes {times}, "
        f"{rival.size_bytes} to {choice.size_bytes} bytes, loss {rival.loss:.4g} to {choice.loss:.4g}"
    )
