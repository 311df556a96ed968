"""A RISC-V microcontroller with or without instructions for few bits, by published multiply-adds a cycle.

Compute: multiply-adds over the published rate of the operands' bits, shared evenly by the cores. The rates are those of
a single core with mixed-precision dot products (MPIC: Ottavi et al., "A Mixed-Precision RISC-V Processor for
Extreme-Edge DNN Inference", arXiv 2010.04073) as PLiNIO's cost model has them (github.com/eml-eda/plinio,
`plinio/cost/mpic_latency.py`), clock and power likewise (`mpic_energy.py`: the mean of four). Bits that a core has no
instruction for are widened to the next that it has.

Memory, which those models leave out and is ours: an operator is cut into tiles that fit half of the inner memory while
the other half is filled, so that a tile takes the longer of computing and carrying; the first tile's operands and the
last one's results wait for nobody. Operands lie in the outer memory at 2, 4 or 8 bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.simulators.simulator import Operation, SimulatedCost, digest_of

MODEL_VERSION = "1"
"""To be raised with every change of a formula here: costs of another version are simulated anew."""

STORED_BITS = (2, 4, 8)

PUBLISHED: Mapping[tuple[int, int], float] = {
    (8, 8): 2.1,
    (8, 4): 2.3,
    (8, 2): 2.5,
    (4, 8): 2.1,
    (4, 4): 3.5,
    (4, 2): 3.9,
    (2, 8): 2.2,
    (2, 4): 4.0,
    (2, 2): 6.5,
}
"""(activation bits, weight bits) -> multiply-adds a cycle of one MPIC core."""

UNPACK_CYCLES = 1.25
"""Cycles of widening one number where no instruction takes it narrow: one to extract it, a quarter of a store."""


@dataclass(frozen=True)
class Microcontroller:
    """Implements `Simulator`. rates: (activation bits, weight bits) -> multiply-adds a cycle of one core.

    inner_bytes: scratchpad of the cores; carried_bytes: a cycle, between it and the outer memory (64 KiB and a port of
    8 bytes, as PULP clusters have). power_mw: of one core and its memory while it works.
    """

    machine: str
    cores: int = 1
    rates: Mapping[tuple[int, int], float] = field(default_factory=lambda: PUBLISHED)
    inner_bytes: int = 64 * 1024
    carried_bytes: float = 8.0
    clock_mhz: float = 250.0
    power_mw: float = 5.3825

    @property
    def tool(self) -> str:
        return "mpic"

    @property
    def version(self) -> str:
        return MODEL_VERSION

    @property
    def gives_energy(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        return digest_of(self.tool, self.version, UNPACK_CYCLES, *(getattr(self, name) for name in _COST_FIELDS))

    def simulate(self, operations: Sequence[Operation]) -> Iterator[SimulatedCost]:
        for operation in operations:
            yield self._cost(self._cycles(operation))

    def moved(self, bits: float) -> SimulatedCost:
        """The cores touch each byte, one a cycle and core, unless carrying them takes longer."""
        return self._cost(bits / 8 / min(self.carried_bytes, self.cores))

    def _cost(self, cycles: float) -> SimulatedCost:
        us = cycles / self.clock_mhz
        return SimulatedCost(us, us * self.power_mw * self.cores * 1e-6)  # 1 mW for 1 us is 1e-6 mJ

    def _cycles(self, operation: Operation) -> float:
        """By the best tiling."""
        stored = _stored_bits(operation.activation_bits), _stored_bits(operation.weight_bits)
        pair = self._instruction(*stored)
        multiplying = operation.workload.macs / self.rates[pair]

        def cycles(tiling: Carried) -> float:
            numbers = (tiling.inputs, tiling.weights)
            widened = sum(n for n, bits, wide in zip(numbers, stored, pair, strict=True) if bits < wide)
            computing = (multiplying + UNPACK_CYCLES * widened) / self.cores
            ends, carrying = tiling.end_bytes / self.carried_bytes, tiling.carried_bytes / self.carried_bytes
            return ends + max(computing, carrying - ends)

        return min(map(cycles, _tilings(operation.workload, *stored, self.inner_bytes / 2)))

    def _instruction(self, activation_bits: int, weight_bits: int) -> tuple[int, int]:
        """The pair of operands that computes it: of those at least as wide, the fastest."""
        wide = [pair for pair in self.rates if pair[0] >= activation_bits and pair[1] >= weight_bits]
        exact = (activation_bits, weight_bits)
        return exact if exact in self.rates else max(wide, key=lambda pair: (self.rates[pair], pair))


_COST_FIELDS = ("cores", "rates", "inner_bytes", "carried_bytes", "clock_mhz", "power_mw")

MACHINES = (
    Microcontroller(""),
    Microcontroller("8cores", cores=8),
    Microcontroller("8bit", rates={(8, 8): PUBLISHED[8, 8]}),
    Microcontroller("8cores-8bit", cores=8, rates={(8, 8): PUBLISHED[8, 8]}),
)
"""`8bit` ones have no instructions for fewer bits."""


@dataclass(frozen=True)
class Carried:
    """What all tiles of an operator carry. inputs, weights: numbers, as often as they are carried.

    end_bytes: those of the first tile's operands and the last one's results, while which nothing is computed.
    """

    inputs: float
    weights: float
    carried_bytes: float
    end_bytes: float


def _stored_bits(bits: int) -> int:
    return min(wide for wide in STORED_BITS if wide >= bits)


def _tilings(w: Conv2dWorkload, activation_bits: int, weight_bits: int, room_bytes: float) -> Iterator[Carried]:
    """Those whose tiles fit the room, and always that of single outputs; weights or inputs stay while others pass."""
    outputs = w.batch * w.out_height * w.out_width * w.out_channels
    for rows, columns, channels in itertools.product(*map(_halvings, (w.out_height, w.out_width, w.out_channels))):
        high = min((rows - 1) * w.stride[0] + w.dilation[0] * (w.kernel[0] - 1) + 1, w.dilated_height)
        wide = min((columns - 1) * w.stride[1] + w.dilation[1] * (w.kernel[1] - 1) + 1, w.dilated_width)
        read = w.in_channels if w.groups == 1 else math.ceil(w.in_channels * channels / w.out_channels)
        spots = w.batch * math.ceil(w.out_height / rows) * math.ceil(w.out_width / columns)
        parts = math.ceil(w.out_channels / channels)
        tile_numbers = high * wide * read + rows * columns * channels
        tile_bytes = (tile_numbers * activation_bits + channels * w.terms * weight_bits) / 8
        if tile_bytes > room_bytes and not rows == columns == channels == 1:
            continue
        every_part = spots * high * wide * read * parts
        weights_stay = (every_part, w.weight_count)
        inputs_stay = (every_part if w.groups > 1 else every_part / parts, w.weight_count * (spots if parts > 1 else 1))
        for inputs, weights in (weights_stay, inputs_stay):
            carried = ((inputs + outputs) * activation_bits + weights * weight_bits) / 8
            yield Carried(inputs, weights, carried, min(tile_bytes, carried))


def _halvings(size: int) -> list[int]:
    """size, half of it, ... 1."""
    found = [size]
    while found[-1] > 1:
        found.append(math.ceil(found[-1] / 2))
    return found
