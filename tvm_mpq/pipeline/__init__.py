"""The only room that joins the others. Each public function is one job of the command line or of `tvm_mpq.optimize`."""

from __future__ import annotations

from tvm_mpq.pipeline.demo import demo as demo_network
from tvm_mpq.pipeline.doctor import diagnose
from tvm_mpq.pipeline.inspect import inspect as inspect_network
from tvm_mpq.pipeline.optimize import optimize as optimize_network
from tvm_mpq.pipeline.options import Options, Result, check_output
from tvm_mpq.pipeline.run import run_folder
from tvm_mpq.pipeline.search import search as search_network
from tvm_mpq.pipeline.uniform import build_network

__all__ = [
    "Options",
    "Result",
    "build_network",
    "check_output",
    "demo_network",
    "diagnose",
    "inspect_network",
    "optimize_network",
    "run_folder",
    "search_network",
]
