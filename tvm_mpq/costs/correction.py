"""From kernels measured alone to kernels in a network: a correction fitted on whole-network runs of this device.

A kernel timed in a loop finds weights and tensors in caches as near as they fit; in a network others have been at work
since they were last touched, and the virtual machine passes them around. Two terms carry most of that: microseconds per
call, and per byte that comes from farther away than it did in the loop.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mpq.schema import FLOAT_BITS, padded_channels
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Choice, Operator, Problem, emitted_class

TENSOR_SHARE = 0.2
"""How much a byte of a tensor counts beside one of the weights: it was written a moment ago, they were last read a run
ago. Uniform networks cannot tell the two apart; on mixed plans of ResNet-20 and MobileNetV2, measured while the machine
was calm and while it was busy, shares of 0.1 to 0.3 fit."""

TensorBytes = Callable[[str, int], int]
"""Bytes of a tensor, by its name, as it is stored in a format."""


@dataclass(frozen=True)
class Correction:
    """latency = scale * (measured kernels and boundaries) + call_us * calls + byte_us * far bytes."""

    scale: float = 1.0
    call_us: float = 0.0
    byte_us: float = 0.0


@dataclass(frozen=True)
class Observation:
    """One whole network: what its kernels add up to, and what it took. Microseconds.

    far_bytes: weights, and `TENSOR_SHARE` of every tensor as often as a kernel reads or writes it.
    """

    sum_us: float
    calls: int
    far_bytes: float
    measured_us: float


def stored_bytes(shape: Sequence[int], bits: int) -> int:
    """Bytes of a tensor of this logical shape, channels last, in a storage format."""
    *outer, channels = shape or (1,)
    return math.prod(outer) * (4 * channels if bits == FLOAT_BITS else padded_channels(channels))


def observe(problem: Problem, solution: Solution, measured_us: float, tensor_bytes: TensorBytes) -> Observation:
    """The observation of a solution whose network was measured, by the prices of a problem that is not corrected.

    Raises
    ------
    InvalidValueError
        If the problem does not offer what the solution runs.
    """
    found = price(problem, solution.choices, solution.formats)
    far = sum(_converted_bytes(*conversion, tensor_bytes) for conversion in found.conversions)
    for operator in problem.operators:
        choice = operator.choice(solution.choices[operator.name])
        far += _far_bytes(operator, choice, emitted_class(solution.formats[operator.output]), tensor_bytes)
    return Observation(found.latency_us, len(problem.operators) + len(found.conversions), far, measured_us)


def _converted_bytes(name: str, source: int, to: int, tensor_bytes: TensorBytes) -> float:
    return TENSOR_SHARE * (tensor_bytes(name, source) + tensor_bytes(name, to))


def _far_bytes(operator: Operator, choice: Choice, emitted: int, tensor_bytes: TensorBytes) -> float:
    if not choice.latency_us[emitted]:  # reshapes run nothing, and float operators are in the problem's fixed time
        return 0.0
    read = sum(tensor_bytes(name, choice.in_bits) for name in operator.inputs)
    return choice.size_bytes + TENSOR_SHARE * (read + tensor_bytes(operator.output, emitted))


def fit(observations: Sequence[Observation]) -> Correction:
    """Least squares of relative errors with terms that are not negative.

    Where networks run faster than their kernels add up to, both terms are 0 and the sum is scaled down instead.
    """
    if not observations:
        return Correction()
    measured = np.array([o.measured_us for o in observations])
    sums = np.array([o.sum_us for o in observations])
    terms = np.array([[o.calls, o.far_bytes] for o in observations], dtype=np.float64)
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


def correct(problem: Problem, correction: Correction, tensor_bytes: TensorBytes) -> Problem:
    """The same tables with corrected latencies."""
    scale, byte_us = correction.scale, correction.byte_us

    def corrected(operator: Operator, choice: Choice) -> Choice:
        times = {
            emitted: scale * us + byte_us * _far_bytes(operator, choice, emitted, tensor_bytes)
            for emitted, us in choice.latency_us.items()
        }
        return dataclasses.replace(choice, latency_us=times)

    operators = [dataclasses.replace(o, choices=tuple(corrected(o, c) for c in o.choices)) for o in problem.operators]
    tensors = []
    for tensor in problem.tensors:
        costs = {
            (source, to): scale * us + byte_us * _converted_bytes(tensor.name, source, to, tensor_bytes)
            for (source, to), us in tensor.convert_us.items()
        }
        tensors.append(dataclasses.replace(tensor, convert_us=costs))
    return Problem(
        tuple(operators), tuple(tensors), scale * problem.fixed_us, scale * problem.call_us + correction.call_us
    )
