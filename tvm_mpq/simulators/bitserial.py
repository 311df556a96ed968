"""Arrays that take fewer cycles for fewer bits: HAQ's accelerators, by what was published of them.

HAQ (arXiv 1811.08886) chose bits for BISMO (Umuroglu et al., arXiv 1806.08862) on two FPGAs and for Bit Fusion (Sharma
et al., arXiv 1712.01507). An operator is a matrix product for each group: out_channels by terms by positions, cut into
the array's own sizes and padded to them, so that few channels leave most of it idle. Published, and taken from there:

    BISMO       binary products, so that a pair of operands takes weight bits times activation bits passes; the array is
                one of the shape of its largest on the PYNQ-Z1, whose published peak is 6.5 binary TOPS
    Bit Fusion  a unit makes one product of 8 by 8 bits a cycle, four of 4 by 4 or 8 by 2, sixteen of 2 by 2; bits are
                widened to 2, 4 or 8

Ours: the sizes where no source is named, the memory (all operands are carried once, at their own bits, while others are
computed with, so that an operator takes the longer of the two), and no energy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.simulators.simulator import Operation, SimulatedCost, digest_of

MODEL_VERSION = "1"
"""To be raised with every change of a formula here: costs of another version are simulated anew."""

FUSED_BITS = (2, 4, 8)
"""Operands of a unit of Bit Fusion."""


@dataclass(frozen=True)
class BitArray:
    """Implements `Simulator`. rows: output channels at once; depth: terms; columns: positions.

    serial: operands are taken bit by bit; else units of 8 by 8 bits are split along the terms. carried_bytes: a cycle.
    """

    tool: str
    machine: str
    serial: bool
    rows: int
    depth: int
    columns: int
    clock_mhz: float
    carried_bytes: float

    @property
    def version(self) -> str:
        return MODEL_VERSION

    @property
    def gives_energy(self) -> bool:
        return False

    @property
    def digest(self) -> str:
        sizes = (self.serial, self.rows, self.depth, self.columns, self.clock_mhz, self.carried_bytes)
        return digest_of(self.tool, self.version, *sizes)

    @property
    def peak_tops(self) -> float:
        """Of products of one bit by one, or of 2 by 2 where the array is not serial; two operations each."""
        together = 1 if self.serial else (8 // FUSED_BITS[0]) ** 2
        return 2e-6 * self.rows * self.depth * self.columns * together * self.clock_mhz

    def simulate(self, operations: Sequence[Operation]) -> Iterator[SimulatedCost]:
        for operation in operations:
            w, bits = operation.workload, (operation.weight_bits, operation.activation_bits)
            carried = _operand_bits(w, *bits) / 8 / self.carried_bytes
            yield self._cost(max(self._computing(w, *bits), carried))

    def moved(self, bits: float) -> SimulatedCost:
        return self._cost(bits / 8 / self.carried_bytes)

    def _cost(self, cycles: float) -> SimulatedCost:
        return SimulatedCost(cycles / self.clock_mhz, None)

    def _computing(self, w: Conv2dWorkload, weight_bits: int, activation_bits: int) -> float:
        """Cycles, of whole passes through the array."""
        depth, passes = self.depth, weight_bits * activation_bits
        if not self.serial:
            depth, passes = depth * (8 // _fused(weight_bits)) * (8 // _fused(activation_bits)), 1
        channels = math.ceil(w.out_channels / w.groups / self.rows)
        positions = math.ceil(w.batch * w.out_height * w.out_width / self.columns)
        return float(w.groups * channels * math.ceil(w.terms / depth) * positions * passes)


def _operand_bits(w: Conv2dWorkload, weight_bits: int, activation_bits: int) -> float:
    """Inputs and weights read, results written, once each."""
    inputs = w.batch * w.in_height * w.in_width * w.in_channels
    outputs = w.batch * w.out_height * w.out_width * w.out_channels
    return float((inputs + outputs) * activation_bits + w.weight_count * weight_bits)


def _fused(bits: int) -> int:
    return min(wide for wide in FUSED_BITS if wide >= bits)


MACHINES = (
    BitArray("bismo", "edge", serial=True, rows=8, depth=256, columns=8, clock_mhz=200.0, carried_bytes=16.0),
    BitArray("bismo", "cloud", serial=True, rows=32, depth=256, columns=32, clock_mhz=200.0, carried_bytes=320.0),
    BitArray("bitfusion", "", serial=False, rows=16, depth=32, columns=1, clock_mhz=500.0, carried_bytes=16.0),
)
"""`cloud` stands for HAQ's larger FPGA: sixteen times the array, twenty times the memory's bandwidth."""
