"""Latency of every request of a network: from the database where known, measured on the device where not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import tvm

from tvm_mpq.errors import DeviceLostError, MeasurementError, VerificationError
from tvm_mpq.kernels.registry import Kernel, Request, candidates, default_kernel
from tvm_mpq.pipeline.kernel_store import KernelStore, Source
from tvm_mpq.pipeline.options import Progress
from tvm_mpq.schema import DeviceIdentity, FloatWorkload, LatencyKey, LatencyRecord
from tvm_mpq.tuning.database import LatencyDatabase
from tvm_mpq.tuning.measure import Job, MeasureSettings, measure
from tvm_mpq.tuning.network import call_overhead_us
from tvm_mpq.tuning.results import ResultStore
from tvm_mpq.tuning.session_base import Session
from tvm_mpq.tuning.verify import verify_kernel

SETTINGS = MeasureSettings(max_relative_iqr=0.2, retakes=6)
"""For kernels and networks on a machine that other people use too: more patience, and a record shows its spread."""

CALL_SETTINGS = MeasureSettings(max_relative_iqr=1.0, max_drift=10.0, repeats=21)
"""A call costs a fraction of a microsecond: its own scatter is large beside it and small beside any kernel."""

NOISE_RETRIES = 5
"""Rounds in which kernels refused as unsteady are tried again at the end, when whatever disturbed them may be over."""

UNSTEADY = ("noisy", "drifts")
"""Words in the failures that a busy machine causes, not the kernel."""


@dataclass
class LatencyTable:
    """Best known kernel and its time for each request key, and where the entries came from."""

    target: str
    records: dict[str, LatencyRecord] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    measured: int = 0
    cached: int = 0
    refused: list[LatencyRecord] = field(default_factory=list)

    def latency_us(self, request: Request) -> float:
        """Median microseconds; infinite when every kernel for it failed."""
        record = self.records.get(request.key)
        return math.inf if record is None or record.median_us is None else record.median_us

    def kernel(self, request: Request) -> Kernel:
        return self.kernels.get(request.key) or default_kernel(request)

    def offer(self, kernel: Kernel, record: LatencyRecord) -> None:
        """Keep the faster of what is known and this."""
        if record.median_us is None:
            self.refused.append(record)
        elif record.median_us < self.latency_us(kernel.request):
            self.records[kernel.request.key] = record
            self.kernels[kernel.request.key] = kernel


def latency_key(kernel: Kernel, target: str) -> LatencyKey:
    request = kernel.request
    return LatencyKey(
        request.workload.key, str(request.precision), request.out_bits, kernel.family.name, kernel.knobs_text, target
    )


@dataclass(frozen=True)
class Meter:
    """Everything measuring needs: where records go, where code is compiled, where it runs."""

    target: str
    device: DeviceIdentity
    store: KernelStore
    db: LatencyDatabase
    open_session: Callable[[], Session]
    settings: MeasureSettings
    progress: Progress | None = None

    def known(self, key: LatencyKey, version: str) -> LatencyRecord | None:
        """A good record of this device and this very code."""
        record = self.db.get(key, self.device.key)
        return record if record is not None and record.kernel_version == version and record.failure is None else None

    def measure(self, items: Mapping[LatencyKey, Source]) -> Iterator[LatencyRecord]:
        """Compile and time; each record is stored before the next is measured. Failures are records too."""
        if not items:
            return
        jobs = []
        for key, compiled in zip(items, self.store.compile(list(items.values()), self.progress), strict=True):
            source = compiled.source
            if compiled.path is None:
                yield self.failure(key, source.version, compiled.failure or "does not compile")
            else:
                jobs.append(Job(key, compiled.path, source.symbol, source.arguments()))
        with self.open_session() as session:
            records = measure(session, jobs, self.settings, device=self.device.key, kernel_version="")
            for done, bare in enumerate(records, 1):
                record = dataclasses.replace(bare, kernel_version=items[bare.key].version)
                self.db.put(record)
                if self.progress:
                    self.progress(done, len(jobs), "measuring kernels")
                yield record

    def failure(self, key: LatencyKey, version: str, reason: str) -> LatencyRecord:
        """A record that says why there is no time."""
        now = datetime.now(timezone.utc).isoformat()
        return LatencyRecord(
            key, self.device.key, tvm.__version__, version, None, None, 0, now, "measured", failure=reason
        )


def fill(meter: Meter, requests: Sequence[Request], *, every_candidate: bool = False) -> LatencyTable:
    """A table with an entry for each request; only what the database does not know is measured.

    Raises
    ------
    MeasurementError
        If a request is left without any kernel that could be measured; the text gives the first reason.
    """
    table = LatencyTable(meter.target)
    todo: dict[LatencyKey, Kernel] = {}
    for request in requests:
        for kernel in candidates(request) if every_candidate else [default_kernel(request)]:
            key = latency_key(kernel, meter.target)
            record = meter.known(key, meter.store.source(kernel).version)
            if record is None:
                todo[key] = kernel
            else:
                table.offer(kernel, record)
                table.cached += 1
    todo = _right_ones(meter, table, todo)
    for _ in range(1 + NOISE_RETRIES):
        noisy: dict[LatencyKey, Kernel] = {}
        for record in meter.measure({key: meter.store.source(kernel) for key, kernel in todo.items()}):
            table.measured += 1
            table.offer(todo[record.key], record)
            if record.failure and any(sign in record.failure for sign in UNSTEADY):
                noisy[record.key] = todo[record.key]
        todo = noisy
    for request in requests:
        if not math.isfinite(table.latency_us(request)):
            why = next((r.failure for r in table.refused if r.key.workload == request.workload.key), "no kernel")
            raise MeasurementError(f"no measured kernel for {request.key}: {why}")
    return table


def _right_ones(meter: Meter, table: LatencyTable, todo: dict[LatencyKey, Kernel]) -> dict[LatencyKey, Kernel]:
    """The kernels whose numbers are right on the device; the others become failure records."""
    if not todo:
        return {}
    kept: dict[LatencyKey, Kernel] = {}
    sources = [meter.store.source(kernel) for kernel in todo.values()]
    compiled = meter.store.compile(sources, meter.progress)
    with meter.open_session() as session:
        for done, ((key, kernel), library) in enumerate(zip(todo.items(), compiled, strict=True), 1):
            reason = library.failure
            if library.path is not None:
                try:
                    verify_kernel(session, library.path, library.source.symbol, kernel)
                except DeviceLostError as e:
                    reason = str(e)
                    session.restart()
                except (VerificationError, MeasurementError) as e:
                    reason = str(e)
            if reason is None:
                kept[key] = kernel
            else:
                table.refused.append(meter.failure(key, library.source.version, reason))
                meter.db.put(table.refused[-1])
            if meter.progress:
                meter.progress(done, len(todo), "checking kernels")
    return kept


def float_time_us(meter: Meter, functions: Sequence[tuple[tvm.tirx.PrimFunc, int]]) -> float:
    """Time of the operators without a template: each PrimFunc's median times its calls."""
    sources: dict[LatencyKey, Source] = {}
    calls: dict[LatencyKey, int] = {}
    total = 0.0
    for func, count in functions:
        source = meter.store.source_of(func)
        workload = FloatWorkload(source.version, str(func.attrs.get("global_symbol", "float")))
        key = LatencyKey(workload.key, "fp32", 32, "tvm", "{}", meter.target)
        calls[key] = count
        record = meter.known(key, source.version)
        if record is None:
            sources[key] = source
        else:
            total += count * (record.median_us or 0.0)
    for record in meter.measure(sources):
        if record.median_us is None:
            raise MeasurementError(f"float operator {record.key.workload} cannot be measured: {record.failure}")
        total += calls[record.key] * record.median_us
    return total


def call_us(meter: Meter) -> float:
    """What one more kernel call costs in the Relax VM on this device; measured once per device and TVM version."""
    key = f"{meter.device.key}|{tvm.__version__}"
    stored = ResultStore(meter.db).get("call_overhead", key)
    if stored is None:
        with meter.open_session() as session:
            stored = {"us": call_overhead_us(session, CALL_SETTINGS)}
        ResultStore(meter.db).put("call_overhead", key, stored)
    return float(stored["us"])
