"""Latency of every request of a network: from the database where known, measured on the device where not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm

from tvm_mpq.errors import DeviceLostError, MeasurementError, NoKernelError, VerificationError
from tvm_mpq.kernels.registry import Kernel, Request, candidates, default_kernel, named_kernel
from tvm_mpq.pipeline.kernel_store import Compiled, KernelStore, Source
from tvm_mpq.pipeline.options import Progress
from tvm_mpq.schema import DeviceIdentity, FloatWorkload, LatencyKey, LatencyRecord
from tvm_mpq.tuning.database import LatencyDatabase
from tvm_mpq.tuning.measure import Job, MeasureSettings
from tvm_mpq.tuning.network import call_overhead_us
from tvm_mpq.tuning.place import Place, failed, measure_at
from tvm_mpq.tuning.results import ResultStore
from tvm_mpq.tuning.session_base import Session
from tvm_mpq.tuning.verify import verify_kernel

SETTINGS = MeasureSettings(max_relative_iqr=0.2, retakes=6)
"""For kernels and networks on a machine that other people use too: more patience, and a record shows its spread."""

NETWORK_SETTINGS = dataclasses.replace(SETTINGS, repeats=15, min_repeat_ms=10.0, retakes=2)
"""For whole networks: few, and what their weights meet in shared caches changes from run to run. Medians of seven runs
of MobileNetV2 were 2 to 3 % apart, which is more than what the whole-network model is to tell."""

CALL_SETTINGS = MeasureSettings(max_relative_iqr=1.0, max_drift=10.0, repeats=21)
"""A call costs a fraction of a microsecond: its own scatter is large beside it and small beside any kernel."""

HOPE = 0.3
"""A kernel predicted too slow is never chosen, so never measured, and the error stays; one predicted too fast is found
out. Plans of MobileNetV2 from tables measured to 0.3 were up to 3.2 % slower than from full ones without hope, 0.9 %
with 0.3 of it, for 2 to 5 % more of the entries measured (replays over three loss limits)."""

NOISE_RETRIES = 5
"""Rounds in which kernels refused as unsteady are tried again at the end, when whatever disturbed them may be over."""

UNSTEADY = ("noisy", "drifts")
"""Words in the failures that a busy machine causes, not the kernel."""


def hopeful(predicted_us: float, stated_error: float) -> float:
    """A prediction, moved by `HOPE` towards the fast end of what its error allows."""
    return predicted_us / math.pow(1 + stated_error, HOPE)


@dataclass
class LatencyTable:
    """Best known kernel and its time for each request key, and where the entries came from."""

    target: str
    records: dict[str, LatencyRecord] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    measured: int = 0
    cached: int = 0
    refused: list[LatencyRecord] = field(default_factory=list)
    predictor: dict[str, Any] | None = None  # held-out errors, where entries were predicted

    def latency_us(self, request: Request) -> float:
        """Median microseconds; infinite when every kernel for it failed."""
        record = self.records.get(request.key)
        return math.inf if record is None or record.median_us is None else record.median_us

    def hopeful_us(self, request: Request) -> float:
        """The same, predictions with hope."""
        record = self.records.get(request.key)
        error = 0.0 if record is None else record.stated_error or 0.0
        return hopeful(self.latency_us(request), error)

    def kernel(self, request: Request) -> Kernel:
        return self.kernels.get(request.key) or default_kernel(request)

    def offer(self, kernel: Kernel, record: LatencyRecord) -> None:
        """Keep the faster of what is known and this; a measurement takes the place of its own prediction."""
        old = self.records.get(kernel.request.key)
        if record.median_us is None:
            self.refused.append(record)
        elif old is None or old.key == record.key or record.median_us < self.latency_us(kernel.request):
            self.records[kernel.request.key] = record
            self.kernels[kernel.request.key] = kernel

    def predicted(self) -> dict[LatencyKey, Kernel]:
        """The kernels whose times are predictions."""
        return {r.key: self.kernels[name] for name, r in self.records.items() if r.provenance == "predicted"}

    def forget_predictions(self, kernels: Iterable[Kernel]) -> None:
        """Take back what was only predicted for these kernels."""
        for name in {kernel.request.key for kernel in kernels}:
            if name in self.records and self.records[name].provenance == "predicted":
                del self.records[name], self.kernels[name]

    @property
    def entries(self) -> dict[str, int]:
        """How many were measured now, are predicted, and had been measured before."""
        return {"measured": self.measured, "predicted": len(self.predicted()), "cached": self.cached}


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
    place: Place
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
        records = measure_at(self.place, jobs, self.settings, device=self.device.key)
        for done, bare in enumerate(records, 1):
            record = dataclasses.replace(bare, kernel_version=items[bare.key].version)
            self.db.put(record, replace=True)
            if self.progress:
                self.progress(done, len(jobs), "measuring kernels")
            yield record

    def failure(self, key: LatencyKey, version: str, reason: str) -> LatencyRecord:
        """A record that says why there is no time."""
        return failed(key, self.device.key, version, reason)


def fill(meter: Meter, requests: Sequence[Request], *, every_candidate: bool = False) -> LatencyTable:
    """A table with an entry for each request; only what the database does not know is measured.

    Raises
    ------
    MeasurementError
        If a request is left without any kernel that could be measured; the text gives the first reason.
    """
    table = LatencyTable(meter.target)
    measure_all(meter, table, look_up(meter, table, requests, every_candidate=every_candidate))
    complete(table, requests)
    return table


def look_up(
    meter: Meter,
    table: LatencyTable,
    requests: Sequence[Request],
    *,
    every_candidate: bool = False,
) -> dict[LatencyKey, Kernel]:
    """Enter what was measured before; returns the kernels that were not.

    Of each request the fastest kernel known counts, its default where none is; or all its candidates.
    """
    missing: dict[LatencyKey, Kernel] = {}
    for request in requests:
        best = None if every_candidate else tuned_kernel(meter, request)
        for kernel in candidates(request) if every_candidate else [best or default_kernel(request)]:
            key = latency_key(kernel, meter.target)
            record = meter.known(key, meter.version(kernel))
            if record is None:
                missing[key] = kernel
            else:
                table.offer(kernel, record)
                table.cached += 1
    return missing


def tuned_kernel(meter: Meter, request: Request) -> Kernel | None:
    """The fastest kernel that this device measured for a request, None when it measured none but the default."""
    where = (request.workload.key, str(request.precision), request.out_bits, meter.target, meter.device.key)
    found = meter.db.fastest(*where)
    current = (current_kernel(meter, request, record) for record in (found if len(found) > 1 else ()))
    return next((kernel for kernel in current if kernel is not None), None)


def current_kernel(meter: Meter, request: Request, record: LatencyRecord) -> Kernel | None:
    """The kernel that a record of this request is about, None where today's code of it is not what was measured."""
    try:
        kernel = named_kernel(request, record.key.family, json.loads(record.key.knobs))
    except NoKernelError:
        return None
    # Knobs of another version may mean nothing to today's builder.
    known = kernel.knobs in kernel.family.knob_space(request)
    return kernel if known and meter.version(kernel) == record.kernel_version else None


def measure_all(meter: Meter, table: LatencyTable, kernels: dict[LatencyKey, Kernel]) -> None:
    """Check and measure kernels and enter their times; those that a busy machine disturbed are tried again."""
    todo = _right_ones(meter, table, kernels)
    for _ in range(1 + NOISE_RETRIES):
        noisy: dict[LatencyKey, Kernel] = {}
        for record in meter.measure({key: meter.store.source(kernel) for key, kernel in todo.items()}):
            table.measured += record.failure is None
            table.offer(todo[record.key], record)
            if record.failure and any(sign in record.failure for sign in UNSTEADY):
                noisy[record.key] = todo[record.key]
        todo = noisy


def complete(table: LatencyTable, requests: Sequence[Request]) -> None:
    """Raises MeasurementError with the first reason when a request has no time."""
    for request in requests:
        if not math.isfinite(table.latency_us(request)):
            why = next((r.failure for r in table.refused if r.key.workload == request.workload.key), "no kernel")
            raise MeasurementError(f"no measured kernel for {request.key}: {why}")


def _right_ones(meter: Meter, table: LatencyTable, todo: dict[LatencyKey, Kernel]) -> dict[LatencyKey, Kernel]:
    """The kernels whose numbers are right on the device; the others become failure records."""
    if not todo:
        return {}
    kept: dict[LatencyKey, Kernel] = {}
    sources = [meter.store.source(kernel) for kernel in todo.values()]
    compiled = meter.store.compile(sources, meter.progress)
    reasons = {key: library.failure for key, library in zip(todo, compiled, strict=True)}
    tasks = [(key, todo[key], lib) for key, lib in zip(todo, compiled, strict=True) if lib.path is not None]
    for done, ((key, _, _), reason) in enumerate(meter.place.run(tasks, _wrong), 1):
        reasons[key] = str(reason) if isinstance(reason, DeviceLostError) else reason
        if meter.progress:
            meter.progress(done, len(tasks), "checking kernels")
    for (key, reason), library in zip(reasons.items(), compiled, strict=True):
        if reason is None:
            kept[key] = todo[key]
        else:
            table.refused.append(meter.failure(key, library.source.version, reason))
            meter.db.put(table.refused[-1], replace=True)
    return kept


def _wrong(session: Session, task: tuple[LatencyKey, Kernel, Compiled]) -> str | None:
    """Why a kernel's numbers are not to be trusted, None = they are right."""
    _, kernel, library = task
    assert library.path is not None
    try:
        verify_kernel(session, library.path, library.source.symbol, kernel)
    except DeviceLostError:
        raise
    except (VerificationError, MeasurementError) as e:
        return str(e)
    return None


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
        target, place = meter.store.target(), meter.place
        options = {"target": target, "linker": place.linker, "sentinel": place.sentinel()}
        stored = {"us": place.do(lambda session: call_overhead_us(session, CALL_SETTINGS, **options))}
        ResultStore(meter.db).put("call_overhead", key, stored)
    return float(stored["us"])
