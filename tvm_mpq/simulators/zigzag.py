"""Accelerators by ZigZag (package `zigzag-dse`): an analytical model of arrays, memories and the best mapping to them.

Bits enter as the precision of each operand: how much of it a memory holds, how often it is carried, and what that
takes. The array multiplies one pair of operands a cycle and unit whatever their bits, as these accelerators do, so
fewer bits save time only where memory is the limit, and energy wherever something is carried. Partial sums have 16
bits.

Hardware and mappings are the files that the package ships. They have cycles and picojoules but no clock: 200 MHz as
Eyeriss was built (Chen et al., ISSCC 2016), 500 MHz as edge TPUs run, 700 MHz as TPU v1 ran (Jouppi et al., ISCA 2017).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tvm_mpq.simulators.child import answers, installed_folder
from tvm_mpq.simulators.nests import nest_of
from tvm_mpq.simulators.simulator import Operation, SimulatedCost, digest_of

MODEL_VERSION = "1"
"""Of what is asked of ZigZag here; raised with every change of it."""

PARTIAL_SUM_BITS = 16

SETTINGS = {"loop_orders": 6, "spatial_mappings": 3}
"""How widely mappings are searched: the tool's own defaults. loop_orders: prime factors of loops that are permuted."""

WORKER = "tvm_mpq.simulators.zigzag_worker"


@dataclass(frozen=True)
class ZigzagAccelerator:
    """Implements `Simulator`. machine: a hardware file's name; mapping: a mapping file's."""

    machine: str
    mapping: str
    clock_mhz: float

    @property
    def tool(self) -> str:
        return "zigzag"

    @cached_property
    def version(self) -> str:
        return importlib.metadata.version("zigzag-dse")

    @property
    def gives_energy(self) -> bool:
        return True

    @cached_property
    def files(self) -> tuple[Path, Path]:
        """Hardware and mapping."""
        inputs = installed_folder("zigzag") / "inputs"
        return inputs / "hardware" / f"{self.machine}.yaml", inputs / "mapping" / f"{self.mapping}.yaml"

    @cached_property
    def digest(self) -> str:
        texts = (path.read_text(encoding="utf-8") for path in self.files)
        return digest_of(MODEL_VERSION, PARTIAL_SUM_BITS, sorted(SETTINGS.items()), self.clock_mhz, *texts)

    def simulate(self, operations: Sequence[Operation]) -> Iterator[SimulatedCost]:
        hardware, mapping = map(str, self.files)
        config = {"hardware": hardware, "mapping": mapping, **SETTINGS}
        for answer in answers(WORKER, config, [layer_of(operation) for operation in operations]):
            yield SimulatedCost(answer["cycles"] / self.clock_mhz, answer["picojoules"] * 1e-9)

    def moved(self, bits: float) -> SimulatedCost:
        """Through the port of the DRAM; reading and writing cost about the same there, and their mean is taken."""
        dram = self._dram
        words = bits / dram["ports"][0]["bandwidth_max"]
        picojoules = words * (dram["r_cost"] + dram["w_cost"]) / 2
        return SimulatedCost(words / self.clock_mhz, picojoules * 1e-9)

    @cached_property
    def _dram(self) -> Any:
        import yaml  # comes with ZigZag

        return yaml.safe_load(self.files[0].read_text(encoding="utf-8"))["memories"]["dram"]


def layer_of(operation: Operation) -> dict[str, Any]:
    """An operation as ZigZag describes a layer."""
    nest = nest_of(operation.workload)
    loops = {
        "B": nest.batch, "K": nest.out_channels, "G": nest.groups, "OX": nest.out_columns, "OY": nest.out_rows,
        "C": nest.in_channels, "FX": nest.kernel_columns, "FY": nest.kernel_rows,
    }  # fmt: skip
    return {
        "id": 0,
        "name": "layer",
        "operator_type": "Conv",
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "loop_dims": list(loops),
        "loop_sizes": list(loops.values()),
        "dimension_relations": [
            f"ix={nest.stride[1]}*ox+{nest.dilation[1]}*fx",
            f"iy={nest.stride[0]}*oy+{nest.dilation[0]}*fy",
        ],
        "operand_precision": {
            "W": operation.weight_bits,
            "I": operation.activation_bits,
            "O": PARTIAL_SUM_BITS,
            "O_final": operation.activation_bits,
        },
        "operand_source": {"W": 0, "I": 0},  # both come from memory, from no layer before
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [nest.in_columns, nest.in_rows],
        "padding": [list(nest.column_padding), list(nest.row_padding)],
    }


MACHINES = (
    ZigzagAccelerator("eyeriss_like", "default", 200.0),
    ZigzagAccelerator("edge_tpu_like", "edge_tpu_like", 500.0),
    ZigzagAccelerator("tpu_like", "tpu_like", 700.0),
)
