"""The only room that joins the others. Each public function is one job of the command line or of `tvm_mpq.optimize`.

Names are looked up when first used: `tvm-mpq doctor` must answer where TVM, which most jobs import, is broken.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_mpq.pipeline.check import Wanted, check_folder
    from tvm_mpq.pipeline.compare import compare as compare_methods
    from tvm_mpq.pipeline.demo import demo as demo_network
    from tvm_mpq.pipeline.devices import devices as list_devices
    from tvm_mpq.pipeline.doctor import diagnose
    from tvm_mpq.pipeline.export import export_folder
    from tvm_mpq.pipeline.forecast import forecast as forecast_network
    from tvm_mpq.pipeline.inspect import inspect as inspect_network
    from tvm_mpq.pipeline.loaded import LoadedModel
    from tvm_mpq.pipeline.optimize import optimize as optimize_network
    from tvm_mpq.pipeline.options import Options, check_output
    from tvm_mpq.pipeline.reread import reread as reread_report
    from tvm_mpq.pipeline.result import Result
    from tvm_mpq.pipeline.run import run_folder
    from tvm_mpq.pipeline.search import search as search_network
    from tvm_mpq.pipeline.sensitivity import sensitivity as network_sensitivity
    from tvm_mpq.pipeline.tune import tune as tune_network
    from tvm_mpq.pipeline.uniform import build_network

__all__ = [
    "LoadedModel",
    "Options",
    "Result",
    "Wanted",
    "build_network",
    "check_folder",
    "check_output",
    "compare_methods",
    "demo_network",
    "diagnose",
    "export_folder",
    "forecast_network",
    "inspect_network",
    "list_devices",
    "network_sensitivity",
    "optimize_network",
    "reread_report",
    "run_folder",
    "search_network",
    "tune_network",
]

_HOMES = {
    "LoadedModel": ("loaded", "LoadedModel"),
    "Options": ("options", "Options"),
    "Result": ("result", "Result"),
    "Wanted": ("check", "Wanted"),
    "build_network": ("uniform", "build_network"),
    "check_folder": ("check", "check_folder"),
    "check_output": ("options", "check_output"),
    "compare_methods": ("compare", "compare"),
    "demo_network": ("demo", "demo"),
    "diagnose": ("doctor", "diagnose"),
    "forecast_network": ("forecast", "forecast"),
    "export_folder": ("export", "export_folder"),
    "inspect_network": ("inspect", "inspect"),
    "list_devices": ("devices", "devices"),
    "optimize_network": ("optimize", "optimize"),
    "run_folder": ("run", "run_folder"),
    "network_sensitivity": ("sensitivity", "sensitivity"),
    "reread_report": ("reread", "reread"),
    "search_network": ("search", "search"),
    "tune_network": ("tune", "tune"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
