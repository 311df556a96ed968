"""Times of what no plan changes: operators without a kernel of ours, and the cost of a call."""

from __future__ import annotations

from collections.abc import Sequence

import tvm

from tvm_mpq.costs.profiler import KernelProfiler
from tvm_mpq.errors import MeasurementError
from tvm_mpq.execute.call_overhead import call_overhead_us
from tvm_mpq.schema import FloatWorkload, LatencyKey
from tvm_mpq.tuning.compile.kernel_store import KernelSource
from tvm_mpq.tuning.database.results import ResultStore
from tvm_mpq.tuning.measure import presets


def float_time_us(profiler: KernelProfiler, functions: Sequence[tuple[tvm.tirx.PrimFunc, int]]) -> float:
    """Time of the operators without a template: each PrimFunc's median times its calls."""
    sources: dict[LatencyKey, KernelSource] = {}
    calls: dict[LatencyKey, int] = {}
    total = 0.0
    for func, count in functions:
        source = profiler.store.source_of(func)
        workload = FloatWorkload(source.version, str(func.attrs.get("global_symbol", "float")))
        key = LatencyKey(workload.key, "fp32", 32, "tvm", "{}", profiler.target)
        calls[key] = count
        record = profiler.known(key, source.version)
        if record is None:
            sources[key] = source
        else:
            total += count * (record.median_us or 0.0)
    for record in profiler.measure(sources):
        if record.median_us is None:
            raise MeasurementError(f"float operator {record.key.workload} cannot be measured: {record.failure}")
        total += calls[record.key] * record.median_us
    return total


def call_us(profiler: KernelProfiler) -> float:
    """What one more kernel call costs in the Relax VM on this device; measured once per device and TVM version."""
    key = f"{profiler.device.key}|{tvm.__version__}"
    stored = ResultStore(profiler.db).get("call_overhead", key)
    if stored is None:
        target, pool = profiler.store.target(), profiler.pool
        options = {"target": target, "linker": pool.linker, "sentinel": pool.sentinel()}
        stored = {"us": pool.do(lambda session: call_overhead_us(session, presets.CALLS, **options))}
        ResultStore(profiler.db).put("call_overhead", key, stored)
    return float(stored["us"])
