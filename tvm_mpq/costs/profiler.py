"""Measures kernels on the device and keeps what it finds; tells which records are of the code of today."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import tvm

from tvm_mpq.errors import NoKernelError
from tvm_mpq.kernels.registry import Kernel, Request, named_kernel
from tvm_mpq.schema import DeviceIdentity, FailureKind, LatencyKey, LatencyRecord, Progress, json_types
from tvm_mpq.tuning.compile.kernel_store import KernelSource, KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.devices.pool import DevicePool
from tvm_mpq.tuning.measure.kernels import KernelJob, MeasureSettings
from tvm_mpq.tuning.measure.on_pool import failed, measure_at


def latency_key(kernel: Kernel, target: str) -> LatencyKey:
    request = kernel.request
    return LatencyKey(
        request.workload.key, str(request.precision), request.out_bits, kernel.family.name, kernel.knobs_text, target
    )


@dataclass(frozen=True)
class KernelProfiler:
    """Everything measuring needs: where records go, where code is compiled, where it runs."""

    target: str
    device: DeviceIdentity
    store: KernelStore
    db: LatencyDatabase
    pool: DevicePool
    settings: MeasureSettings
    progress: Progress | None = None

    def version(self, kernel: Kernel) -> str:
        """Which code a kernel is."""
        return self.store.source(kernel).version

    def known(self, key: LatencyKey, version: str, provenance: str = "measured") -> LatencyRecord | None:
        """A good measurement on this device of this very code, or a prediction of it."""
        found = self.db.records(**vars(key), device=self.device.key, provenance=provenance, failures=False)
        record = next(found, None)
        return record if record is not None and record.kernel_version == version else None

    def measure(self, items: Mapping[LatencyKey, KernelSource]) -> Iterator[LatencyRecord]:
        """Compile and time; each record is stored before the next is measured. Failures are records too."""
        if not items:
            return
        jobs = []
        for key, compiled in zip(items, self.store.compile(list(items.values()), self.progress), strict=True):
            source = compiled.source
            if compiled.path is None:
                reason = compiled.failure or "does not compile"
                yield self.failure(key, source.version, FailureKind.COMPILE, reason)
            else:
                jobs.append(KernelJob(key, compiled.path, source.symbol, source.arguments()))
        records = measure_at(self.pool, jobs, self.settings, device=self.device.key)
        for done, bare in enumerate(records, 1):
            record = dataclasses.replace(bare, kernel_version=items[bare.key].version)
            self.db.put(record, replace=True)
            if self.progress:
                self.progress(done, len(jobs), "measuring kernels")
            yield record

    def prediction(self, key: LatencyKey, kernel: Kernel, median_us: float, stated_error: float) -> LatencyRecord:
        """A record of a time that was not measured; it is not stored."""
        now = datetime.now(timezone.utc).isoformat()
        version = self.version(kernel)
        return LatencyRecord(
            key,
            self.device.key,
            tvm.__version__,
            version,
            median_us,
            None,
            0,
            now,
            "predicted",
            stated_error=stated_error,
        )

    def failure(self, key: LatencyKey, version: str, kind: FailureKind, reason: str) -> LatencyRecord:
        """A record that says why there is no time."""
        return failed(key, self.device.key, version, kind, reason)


def tuned_kernel(profiler: KernelProfiler, request: Request) -> Kernel | None:
    """The fastest kernel that this device measured for a request, None when it measured none but the default."""
    where = (request.workload.key, str(request.precision), request.out_bits, profiler.target, profiler.device.key)
    found = profiler.db.fastest(*where)
    current = (current_kernel(profiler, request, record) for record in (found if len(found) > 1 else ()))
    return next((kernel for kernel in current if kernel is not None), None)


def current_kernel(profiler: KernelProfiler, request: Request, record: LatencyRecord) -> Kernel | None:
    """The kernel that a record of this request is about, None where today's code of it is not what was measured."""
    try:
        knobs = json_types.checked(json_types.parse(record.key.knobs), dict[str, Any], "knobs")
        kernel = named_kernel(request, record.key.family, knobs)
    except (NoKernelError, ValueError):  # the latter where the record is damaged
        return None
    return kernel if kernel.is_offered and profiler.version(kernel) == record.kernel_version else None
