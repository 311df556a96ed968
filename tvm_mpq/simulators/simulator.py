"""What a simulator of a machine is to the rest: operators at some bits in, time and energy out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm_mpq.schema import Conv2dWorkload


@dataclass(frozen=True)
class Operation:
    """A convolution or linear layer at some bits; its result is written at its activation bits.

    workload: without residual and activation, which no simulator here tells apart.
    """

    workload: Conv2dWorkload
    weight_bits: int
    activation_bits: int

    @property
    def precision(self) -> str:
        return f"w{self.weight_bits}a{self.activation_bits}"


@dataclass(frozen=True)
class SimulatedCost:
    """Of one run. energy_mj: None where the simulator has no energies."""

    latency_us: float
    energy_mj: float | None

    def __add__(self, other: SimulatedCost) -> SimulatedCost:
        energies = (self.energy_mj, other.energy_mj)
        known = None if None in energies else sum(e for e in energies if e is not None)
        return SimulatedCost(self.latency_us + other.latency_us, known)


class Simulator(Protocol):
    """A machine that is not here.

    tool, version: what simulates; machine: what is simulated; digest: of everything about it that a cost depends on;
    gives_energy: whether its costs have energies.
    """

    @property
    def tool(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def machine(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def gives_energy(self) -> bool: ...

    def simulate(self, operations: Sequence[Operation]) -> Iterator[SimulatedCost]:
        """The cost of each, in order. Raises MeasurementError when the simulator fails on one."""

    def moved(self, bits: float) -> SimulatedCost:
        """What carrying that many bits from or to the outermost memory takes: all that operators without weights do."""


def name_of(simulator: Simulator) -> str:
    """`tool:machine`, as `--latency-source` takes it; the tool alone where it has one machine of no name."""
    return f"{simulator.tool}:{simulator.machine}".rstrip(":")


def digest_of(*parts: object) -> str:
    """Of things whose `repr` says everything about them."""
    return hashlib.sha256("|".join(map(repr, parts)).encode()).hexdigest()[:16]
