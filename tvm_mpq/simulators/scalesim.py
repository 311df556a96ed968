"""Systolic arrays by SCALE-Sim 3 (package `scalesim`), the simulator that AMED used.

SCALE-Sim knows no bits: its memories hold words and its array multiplies them. Here (ours):

- The array multiplies words of 8 bits. As many values share a word as the wider operand of a pair allows: 1 of 8 to 5
  bits, 2 of 4 or 3, 4 of 2 or 1. A unit adds up the products of a word, so a layer's input channels become words. A
  depthwise layer has one input channel an output, gains nothing by that, and is simulated channel by channel.
- Memories hold values by their own bits: an SRAM of so many kB has 8 / bits as many of them.
- The interface to the outer memory carries so many bits a cycle, of all operands together. SCALE-Sim says how many
  words of inputs and weights its SRAMs fetch. Results leave once, at the operator's activation bits. Where sums take
  several passes of a weight-stationary array, positions are cut into parts of which the output SRAM holds the partial
  sums of 32 bits, and weights are fetched anew for each part. A layer takes the longer of the array's cycles and of
  carrying all that. (The tool's own stalls follow from fetching every window of a convolution anew, nine times the
  input of a 3x3 layer, and from partial sums that leave and come back.)

It has no energies here. The configurations are ours as well: an array of the size of a small TPU, the same with little
memory behind it, and one of Eyeriss's size and memory.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm_mpq.simulators.child import answers
from tvm_mpq.simulators.nests import Nest, nest_of
from tvm_mpq.simulators.simulator import Operation, SimulatedCost, digest_of

MODEL_VERSION = "1"
"""Of what is asked of SCALE-Sim here, and made of its answers; raised with every change of it."""

WORD_BITS = 8

PARTIAL_SUM_BITS = 32
"""Of results that are not whole yet."""

WORKER = "tvm_mpq.simulators.scalesim_worker"


@dataclass(frozen=True)
class SystolicArray:
    """Implements `Simulator`. dataflow: `ws` or `os`, weight or output stationary. Memories in kB.

    carried_bits: a cycle, between them and the outer memory, of all operands together.
    """

    machine: str
    rows: int
    columns: int
    dataflow: str
    input_kb: int
    weight_kb: int
    output_kb: int
    carried_bits: int
    clock_mhz: float

    @property
    def tool(self) -> str:
        return "scalesim"

    @cached_property
    def version(self) -> str:
        return importlib.metadata.version("scalesim")

    @property
    def gives_energy(self) -> bool:
        return False

    @cached_property
    def digest(self) -> str:
        fields = dataclasses.asdict(self)
        del fields["machine"]
        return digest_of(MODEL_VERSION, WORD_BITS, PARTIAL_SUM_BITS, sorted(fields.items()))

    def simulate(self, operations: Sequence[Operation]) -> Iterator[SimulatedCost]:
        jobs = [self._job(operation) for operation in operations]
        for operation, answer in zip(operations, answers(WORKER, {}, jobs), strict=True):
            yield SimulatedCost(self._cycles(operation, answer) / self.clock_mhz, None)

    def moved(self, bits: float) -> SimulatedCost:
        return SimulatedCost(bits / self.carried_bits / self.clock_mhz, None)

    def _job(self, operation: Operation) -> dict[str, Any]:
        """A group of the layer, in words."""
        nest, packed = nest_of(operation.workload), packed_values(operation)
        word_bits = (packed * operation.activation_bits, packed * operation.weight_bits, operation.activation_bits)
        sizes = (self.input_kb, self.weight_kb, self.output_kb)
        return {
            "array": [self.rows, self.columns],
            "dataflow": self.dataflow,
            "words": [max(1024 * kb * 8 // bits, 2) for kb, bits in zip(sizes, word_bits, strict=True)],
            "layer": [*_window(nest), -(-nest.in_channels // packed), nest.out_channels, *nest.stride],
        }

    def _cycles(self, operation: Operation, answer: dict[str, int]) -> float:
        nest, packed = nest_of(operation.workload), packed_values(operation)
        outputs = nest.out_rows * nest.out_columns * nest.out_channels
        carried_bits = (
            packed * answer["input_words"] * operation.activation_bits
            + packed * answer["weight_words"] * operation.weight_bits * self._parts(nest, packed)
            + outputs * operation.activation_bits
        )
        return nest.batch * nest.groups * max(float(answer["cycles"]), carried_bits / self.carried_bits)

    def _parts(self, nest: Nest, packed: int) -> int:
        """Into how many the positions are cut, so that the output SRAM holds their partial sums."""
        terms = nest.kernel_rows * nest.kernel_columns * -(-nest.in_channels // packed)
        if self.dataflow == "os" or terms <= self.rows:  # sums are whole when they leave the array
            return 1
        sums = nest.out_rows * nest.out_columns * min(nest.out_channels, self.columns)
        return math.ceil(sums * PARTIAL_SUM_BITS / (8192 * self.output_kb))


def packed_values(operation: Operation) -> int:
    """Values of the wider operand in a word: 1, 2 or 4, as its bits allow (1 bit counts as 2)."""
    wide = max(operation.weight_bits, operation.activation_bits)
    return 4 if wide <= 2 else 2 if wide <= 4 else 1


def _window(nest: Nest) -> tuple[int, int, int, int]:
    """Rows and columns of an input without padding and of a window without holes, which have the layer's outputs."""
    kernel, outputs = (nest.kernel_rows, nest.kernel_columns), (nest.out_rows, nest.out_columns)
    rows, columns = ((o - 1) * step + k for o, step, k in zip(outputs, nest.stride, kernel, strict=True))
    return rows, columns, *kernel


MACHINES = (
    SystolicArray("systolic", 32, 32, "ws", 1024, 1024, 1024, 512, 700.0),
    SystolicArray("low_memory", 32, 32, "ws", 8, 8, 8, 8, 700.0),
    SystolicArray("eyeriss", 12, 14, "os", 54, 27, 27, 64, 200.0),
)
