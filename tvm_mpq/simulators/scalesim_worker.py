"""The child process in which SCALE-Sim runs: layers in words in, the array's cycles and its memories' traffic out."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable
from typing import Any

from tvm_mpq.simulators.child import serve

_OFFSETS = (0, 10_000_000, 20_000_000)  # where inputs, weights and outputs begin, in words: far apart


def start(_: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What simulates one layer, in the mode in which the tool finds the traffic itself."""
    with contextlib.redirect_stdout(sys.stderr):
        from scalesim.memory import double_buffered_scratchpad_mem, read_buffer, write_buffer
        from scalesim.scale_config import scale_config
        from scalesim.single_layer_sim import single_layer_sim
        from scalesim.topology_utils import topologies
    for module in (double_buffered_scratchpad_mem, read_buffer, write_buffer):
        module.max = _largest

    def simulate(job: dict[str, Any]) -> dict[str, Any]:
        config = scale_config()
        (config.array_rows, config.array_cols), config.df = job["array"], job["dataflow"]
        # The tool wants whole kB, of a word a byte.
        sizes = [max(words // 1024, 1) for words in job["words"]]
        config.ifmap_sz_kb, config.filter_sz_kb, config.ofmap_sz_kb = sizes
        config.ifmap_offset, config.filter_offset, config.ofmap_offset = _OFFSETS
        config.use_user_bandwidth = False
        config.valid_conf_flag = True
        layers = topologies()
        layers.topo_arrays.append(["layer", *job["layer"], 1, 1])  # 1 of 1: not sparse
        layers.num_layers = 1
        layers.topo_load_flag = True
        layers.topo_calc_hyperparams()
        layers.set_spatio_temporal_params()
        layer = single_layer_sim()
        with contextlib.redirect_stdout(sys.stderr):
            layer.set_params(layer_id=0, config_obj=config, topology_obj=layers, verbose=False)
            layer.run()
            layer.calc_report_data()
        return {
            "cycles": int(layer.total_cycles),
            "input_words": int(layer.ifmap_dram_reads),
            "weight_words": int(layer.filter_dram_reads),
        }

    return simulate


def _largest(*values: Any) -> Any:
    """`max`, but a number where that is an array of one, of which SCALE-Sim 3.0.0 makes an `int`; NumPy 2.4 refuses."""
    found = builtins.max(*values)
    return found.item() if hasattr(found, "item") else found


if __name__ == "__main__":
    serve(start)
