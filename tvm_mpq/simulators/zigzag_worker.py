"""The child process in which ZigZag runs: layers in, cycles and picojoules of the fastest mapping out."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from tvm_mpq.simulators.child import serve


def start(config: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What prices one layer, by the stages of `zigzag.api` but those that write pictures and files."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        from zigzag.mapping.temporal_mapping import TemporalMappingType
        from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
        from zigzag.stages.main import MainStage
        from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
        from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
        from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
        from zigzag.stages.parser.workload_parser import WorkloadParserStage
        from zigzag.stages.results.reduce_stages import MinimalLatencyStage
        from zigzag.stages.workload_iterator import WorkloadStage

    stages = [
        *(WorkloadParserStage, AcceleratorParserStage, WorkloadStage, MinimalLatencyStage),
        *(SpatialMappingGeneratorStage, MinimalLatencyStage, TemporalMappingGeneratorStage, CostModelStage),
    ]

    def price(layer: dict[str, Any]) -> dict[str, Any]:
        with contextlib.redirect_stdout(sys.stderr):
            ((found, _),) = MainStage(
                stages,
                workload=[layer],
                accelerator=config["hardware"],
                mapping=config["mapping"],
                loma_lpf_limit=config["loop_orders"],
                loma_show_progress_bar=False,
                nb_mappings_generated=config["spatial_mappings"],
                enable_mix_spatial_mapping_generation=False,
                access_same_data_considered_as_no_access=True,
                temporal_mapping_type=TemporalMappingType.UNEVEN,
            ).run()
        return {"cycles": float(found.latency_total2), "picojoules": float(found.energy_total)}

    return price


if __name__ == "__main__":
    serve(start)
