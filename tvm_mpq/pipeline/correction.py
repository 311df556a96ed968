"""From kernels measured alone to kernels in a network: a correction fitted on whole-network runs of this device.

A kernel timed in a loop finds its weights in the nearest cache; in a network they come from farther away, and the
virtual machine passes them around. Two terms carry most of that: microseconds per call and per weight byte.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Choice, Problem


@dataclass(frozen=True)
class Correction:
    """latency = scale * (measured kernels and boundaries) + call_us * calls + byte_us * weight bytes."""

    scale: float = 1.0
    call_us: float = 0.0
    byte_us: float = 0.0


@dataclass(frozen=True)
class Observation:
    """One whole network: what its kernels add up to, and what it took. Microseconds and bytes."""

    sum_us: float
    calls: int
    weight_bytes: int
    measured_us: float


def observe(problem: Problem, solution: Solution, measured_us: float) -> Observation:
    """The observation of a solution whose network was measured."""
    calls = len(problem.operators) + len(solution.conversions)
    return Observation(solution.latency_us, calls, solution.size_bytes, measured_us)


def fit(observations: Sequence[Observation]) -> Correction:
    """Least squares of relative errors with terms that are not negative.

    Where networks run faster than their kernels add up to, both terms are 0 and the sum is scaled down instead.
    """
    if not observations:
        return Correction()
    measured = np.array([o.measured_us for o in observations])
    sums = np.array([o.sum_us for o in observations])
    terms = np.array([[o.calls, o.weight_bytes] for o in observations], dtype=np.float64)
    best, best_error = np.zeros(2), np.inf
    for used in itertools.chain.from_iterable(itertools.combinations(range(2), k) for k in range(3)):
        columns = terms[:, used] / measured[:, None]
        found, *_ = np.linalg.lstsq(columns, (measured - sums) / measured, rcond=None)
        error = float(np.sum((columns @ found - (measured - sums) / measured) ** 2))
        if (found >= 0).all() and error < best_error - 1e-12:
            best = np.zeros(2)
            best[list(used)] = found
            best_error = error
    scale = 1.0 if best.any() else min(1.0, float(np.mean(measured / sums)))
    return Correction(scale, float(best[0]), float(best[1]))


def correct(problem: Problem, correction: Correction) -> Problem:
    """The same tables with corrected latencies."""
    scale, byte_us = correction.scale, correction.byte_us

    def corrected(choice: Choice) -> Choice:
        times = {bits: scale * us + byte_us * choice.size_bytes for bits, us in choice.latency_us.items()}
        return dataclasses.replace(choice, latency_us=times)

    operators = [dataclasses.replace(o, choices=tuple(map(corrected, o.choices))) for o in problem.operators]
    tensors = [
        dataclasses.replace(t, convert_us={pair: scale * us for pair, us in t.convert_us.items()})
        for t in problem.tensors
    ]
    return Problem(
        tuple(operators), tuple(tensors), scale * problem.fixed_us, scale * problem.call_us + correction.call_us
    )
