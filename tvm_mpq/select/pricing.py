"""What one complete assignment costs, worked out directly: the check on whatever a solver claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor, emitted_class, is_integer

Conversion = tuple[str, int, int]
"""Tensor name, format it is converted from, format it is converted to."""

ANY_INTEGER = 0
"""Demand of a reader that takes any integer format."""


@dataclass(frozen=True)
class Cost:
    """Totals of an assignment and what follows from it.

    reads: operator name -> the format in which each of its inputs is read. conversions: each paid once.
    """

    latency_us: float
    size_bytes: int
    loss: float
    energy_mj: float | None
    conversions: tuple[Conversion, ...]
    reads: dict[str, tuple[int, ...]]

    def quantity(self, name: str) -> float:
        """The total of `loss`, `size`, `energy` (NaN where some choice's is unknown) or `latency`."""
        return total(self, name)


class Priced(Protocol):
    """Whatever has the four totals."""

    @property
    def latency_us(self) -> float: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def loss(self) -> float: ...

    @property
    def energy_mj(self) -> float | None: ...


def total(priced: Priced, quantity: str) -> float:
    """One of `QUANTITIES`; NaN for an energy that is not known."""
    energy = math.nan if priced.energy_mj is None else priced.energy_mj
    values = {"loss": priced.loss, "size": priced.size_bytes, "energy": energy, "latency": priced.latency_us}
    return values[quantity]


def price(problem: Problem, labels: Mapping[str, str], formats: Mapping[str, int]) -> Cost:
    """Cost of one choice per operator and one emitted format per tensor; conversions follow, as few as will do.

    Where any integer format will do and the tensor has none, the cheapest conversion is taken (of equals, the one with
    most bits); of several integer copies the one with most bits is read.

    Raises
    ------
    InvalidValueError
        If the assignment cannot be built (a format not emitted, a conversion that does not exist, a broken tie).
    """
    chosen = {o.name: o.choice(labels[o.name]) for o in problem.operators}
    copies = {t.name: _copies(problem, t, chosen, formats) for t in problem.tensors}
    conversions = tuple((t.name, formats[t.name], to) for t in problem.tensors for to in copies[t.name])
    reads = {
        o.name: tuple(_read(problem, o, i, chosen[o.name], formats, copies) for i in range(len(o.inputs)))
        for o in problem.operators
    }
    kernels = [_kernel_us(o, chosen[o.name], formats[o.output]) for o in problem.operators]
    boundaries = [problem.tensor_by_name[name].convert_us[source, to] for name, source, to in conversions]
    calls = problem.call_us * (len(kernels) + len(boundaries))
    energies = [c.energy_mj for c in chosen.values()]
    return Cost(
        latency_us=math.fsum([problem.fixed_us, calls, *kernels, *boundaries]),
        size_bytes=sum(c.size_bytes for c in chosen.values()),
        loss=math.fsum(c.loss for c in chosen.values()),
        energy_mj=None if None in energies else math.fsum(e for e in energies if e is not None),
        conversions=conversions,
        reads=reads,
    )


def tied_to(problem: Problem, operator: Operator, choice: Choice, out_bits: int) -> str | None:
    """The input to be read in the format the operator emits; None where nothing ties (a float side has no range)."""
    both_integer = is_integer(choice.in_bits) and is_integer(out_bits)
    return problem.tensor_by_name[operator.output].tie if both_integer else None


def _kernel_us(operator: Operator, choice: Choice, out_bits: int) -> float:
    emitted = emitted_class(out_bits)
    if emitted not in choice.latency_us:
        raise InvalidValueError(f"operator {operator.name!r} cannot emit {out_bits} bits at {choice.label}")
    return choice.latency_us[emitted]


def _copies(
    problem: Problem, tensor: Tensor, chosen: Mapping[str, Choice], formats: Mapping[str, int]
) -> tuple[int, ...]:
    """The formats a tensor has to be converted to, ascending."""
    emitted = formats[tensor.name]
    possible = [f for f in tensor.formats if f not in tensor.copies_only and tensor.fixed in (None, f)]
    if emitted not in possible:
        raise InvalidValueError(f"tensor {tensor.name!r} cannot be stored at {emitted} bits")
    demands = (
        demand(problem, operator, chosen[operator.name], formats[operator.output], tensor.name)
        for operator in problem.consumers[tensor.name]
    )
    return copies_for(tensor, emitted, frozenset().union(*demands))


def demand(problem: Problem, operator: Operator, choice: Choice, out_bits: int, name: str) -> frozenset[int]:
    """The formats in which an operator needs its input tensor `name`; `ANY_INTEGER` where any integer one will do."""
    found = set()
    for read, exact in zip(operator.inputs, operator.exact_inputs, strict=True):
        if read == name:
            found.add(choice.in_bits if exact or not is_integer(choice.in_bits) else ANY_INTEGER)
    if tied_to(problem, operator, choice, out_bits) == name:
        found.add(out_bits)
    return frozenset(found)


def copies_for(tensor: Tensor, emitted: int, demanded: frozenset[int]) -> tuple[int, ...]:
    """The formats a tensor has to be converted to, ascending, for what its readers demand.

    Raises InvalidValueError where a conversion does not exist.
    """
    needed = set(demanded - {ANY_INTEGER}) | (set() if tensor.required is None else {tensor.required})
    if ANY_INTEGER in demanded and not any(map(is_integer, needed | {emitted})):
        ways = [(us, -to) for (source, to), us in tensor.convert_us.items() if source == emitted and is_integer(to)]
        if not ways:
            raise InvalidValueError(f"tensor {tensor.name!r} has no conversion from {emitted} to integers")
        needed.add(-min(ways)[1])
    needed.discard(emitted)
    for to in needed:
        if (emitted, to) not in tensor.convert_us:
            raise InvalidValueError(f"tensor {tensor.name!r} has no conversion from {emitted} to {to} bits")
    return tuple(sorted(needed))


def _read(
    problem: Problem,
    operator: Operator,
    index: int,
    choice: Choice,
    formats: Mapping[str, int],
    copies: Mapping[str, tuple[int, ...]],
) -> int:
    """The format in which an operator reads one input."""
    if not is_integer(choice.in_bits):
        return FLOAT_BITS
    name = operator.inputs[index]
    out_bits = formats[operator.output]
    tied = tied_to(problem, operator, choice, out_bits) == name
    exact = operator.exact_inputs[index]
    if tied and exact and choice.in_bits != out_bits:
        raise InvalidValueError(
            f"operator {operator.name!r} reads {choice.in_bits} bits and must emit the same (got {out_bits})"
        )
    if exact:
        return choice.in_bits
    if tied:
        return out_bits
    if is_integer(formats[name]):
        return formats[name]
    return max(filter(is_integer, copies[name]))
