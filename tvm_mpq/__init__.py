"""tvm-mpq: mixed-precision networks for Apache TVM, measured on the device, chosen exactly, built into one library.

>>> import tvm_mpq as mpq
>>> mpq.Budget(latency_ratio=0.75)
Budget(latency_ratio=0.75, latency_ms=None, size_mb=None, max_drop=None, energy_mj=None)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_mpq.api import (
    build,
    check,
    compare,
    export,
    finetune,
    forecast,
    inspect,
    load_model,
    optimize,
    run,
    search,
    sensitivity,
    tune,
)
from tvm_mpq.schema import Budget, Plan, Precision

if TYPE_CHECKING:
    from tvm_mpq.pipeline import LoadedModel, Options, Result

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "LoadedModel",
    "Options",
    "Plan",
    "Precision",
    "Result",
    "build",
    "check",
    "compare",
    "export",
    "finetune",
    "forecast",
    "inspect",
    "load_model",
    "optimize",
    "run",
    "search",
    "sensitivity",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Classes whose import loads TVM, when they are asked for."""
    if name in ("LoadedModel", "Options", "Result"):
        from tvm_mpq import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
