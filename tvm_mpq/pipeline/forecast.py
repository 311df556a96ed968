"""What `optimize` would measure, and how long that will take: asked before hours of work; nothing is run."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tvm_mpq.costs.measured import look_up
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.problem import Space
from tvm_mpq.report.forecast import ForecastReport
from tvm_mpq.tuning.database.results import ResultStore

FEWEST = 10
"""Kernels that a pace stands on."""


def forecast(options: Options) -> ForecastReport:
    """Which kernels the network can need, which of them are known, and what the others will take.

    Raises
    ------
    MPQError
        As `optimize` does before it measures.
    """
    options.require_measured("optimize")
    with open_context(dataclasses.replace(options, verify_import=False, say=None)) as context:
        space = Space(context.prepared.graph, context.prepared.features, context.prepared.threads)
        requests = space.requests()
        profiler = context.profiler()
        table = LatencyTable(profiler.target)
        missing = look_up(profiler, table, requests)
        if options.measure_fraction == 1:
            later = space.later()
            missing = {key: kernel for key, kernel in missing.items() if kernel.request.key not in later}
        pace = Pace.last(context)
        count = math.ceil(len(missing) * options.measure_fraction)
        rest = ResultStore(context.db).get("rest", _network(context))
        return {
            "model": context.prepared.loaded.name,
            "target": context.prepared.row.name,
            "device": context.device.key,
            "kernels": {"needed": len(requests), "known": table.cached, "to_measure": count},
            "precisions": dict(sorted(Counter(key.precision for key in missing).items())),
            "measuring_sec": None if pace is None else count * pace.seconds / pace.kernels,
            "pace": None if pace is None else {"kernels": pace.kernels, "seconds": pace.seconds},
            "rest_sec": float(rest) if isinstance(rest, (int, float)) else None,
            "database": str(context.db.path),
        }


@dataclass(frozen=True)
class Pace:
    """How long it took on a device to compile, check and measure so many kernels."""

    kernels: int
    seconds: float

    @classmethod
    def last(cls, context: RunContext) -> Pace | None:
        """That of the last job on this device which measured some."""
        found: Any = ResultStore(context.db).get("pace", context.device.key)
        try:
            pace = cls(int(found["kernels"]), float(found["seconds"]))
        except (TypeError, KeyError, ValueError, OverflowError):  # none yet, or a damaged row
            return None
        return pace if pace.kernels > 0 and 0 < pace.seconds < math.inf else None


def remember_pace(context: RunContext, measured: int, seconds: float) -> None:
    """For forecasts to come, where the numbers are enough to stand on."""
    if measured >= FEWEST:
        ResultStore(context.db).put("pace", context.device.key, {"kernels": measured, "seconds": seconds})


def remember_rest(context: RunContext, seconds: float) -> None:
    """What this network took beside measuring kernels."""
    ResultStore(context.db).put("rest", _network(context), seconds)


def _network(context: RunContext) -> str:
    return f"{context.prepared.loaded.fingerprint}|{context.device.key}"
