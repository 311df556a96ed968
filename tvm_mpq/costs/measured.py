"""Latency of every request of a network: from the database where known, measured on the device where not."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from tvm_mpq.costs.float_writers import estimate
from tvm_mpq.costs.profiler import KernelProfiler, latency_key, tuned_kernel
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.errors import DeviceLostError, MeasurementError, VerificationError
from tvm_mpq.kernels.registry import Kernel, Request, candidates, default_kernel
from tvm_mpq.schema import FailureKind, LatencyKey
from tvm_mpq.tuning.compile.kernel_store import Compiled
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure.verify import verify_kernel

NOISE_RETRIES = 5
"""Rounds in which kernels refused as unsteady are tried again at the end, when whatever disturbed them may be over."""

Failure = tuple[FailureKind, str]
"""What kind of failure, and the reason in words."""


def fill(
    profiler: KernelProfiler,
    requests: Sequence[Request],
    *,
    every_candidate: bool = False,
    later: Collection[str] = (),
) -> LatencyTable:
    """A table with an entry for each request; only what the database does not know is measured.

    later: keys of requests, of integers that write floats, which are measured when a plan is chosen that runs them;
    until then they are estimated by `tvm_mpq.costs.float_writers`.

    Raises
    ------
    MeasurementError
        If a request is left without any kernel that could be measured; the text gives the first reason.
    """
    table = LatencyTable(profiler.target)
    missing = look_up(profiler, table, requests, every_candidate=every_candidate)
    waiting = {key: kernel for key, kernel in missing.items() if kernel.request.key in later}
    measure_all(profiler, table, {key: kernel for key, kernel in missing.items() if key not in waiting})
    measure_all(profiler, table, estimate(profiler, table, waiting))
    complete(table, requests)
    return table


def look_up(
    profiler: KernelProfiler,
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
        best = None if every_candidate else tuned_kernel(profiler, request)
        for kernel in candidates(request) if every_candidate else [best or default_kernel(request)]:
            key = latency_key(kernel, profiler.target)
            record = profiler.known(key, profiler.version(kernel))
            if record is None:
                missing[key] = kernel
            else:
                table.offer(kernel, record)
                table.cached += 1
    return missing


def measure_all(profiler: KernelProfiler, table: LatencyTable, kernels: dict[LatencyKey, Kernel]) -> None:
    """Check and measure kernels and enter their times; those that a busy machine disturbed are tried again."""
    todo = _verified(profiler, table, kernels)
    for _ in range(1 + NOISE_RETRIES):
        noisy: dict[LatencyKey, Kernel] = {}
        for record in profiler.measure({key: profiler.store.source(kernel) for key, kernel in todo.items()}):
            table.measured += record.failure is None
            table.offer(todo[record.key], record)
            if record.failure_kind is not None and record.failure_kind.is_machines:
                noisy[record.key] = todo[record.key]
        todo = noisy


def complete(table: LatencyTable, requests: Sequence[Request]) -> None:
    """Raises MeasurementError with the first reason when a request has no time."""
    for request in requests:
        if not math.isfinite(table.latency_us(request)):
            why = next((r for r in table.refused if _is_of(r.key, request)), None)
            text = f"no measured kernel for {request.key}: {'no kernel' if why is None else why.failure}"
            if why is not None and why.failure_kind is not None and why.failure_kind.is_machines:
                text += "; give the same command again when the machine is quieter: what was measured is kept"
            raise MeasurementError(text)


def _is_of(key: LatencyKey, request: Request) -> bool:
    """Whether the key is of one of the request's kernels."""
    asked = request.workload.key, str(request.precision), request.out_bits
    return asked == (key.workload, key.precision, key.out_bits)


def _verified(
    profiler: KernelProfiler, table: LatencyTable, todo: dict[LatencyKey, Kernel]
) -> dict[LatencyKey, Kernel]:
    """The kernels whose numbers are right on the device; the others become failure records."""
    if not todo:
        return {}
    kept: dict[LatencyKey, Kernel] = {}
    sources = [profiler.store.source(kernel) for kernel in todo.values()]
    compiled = profiler.store.compile(sources, profiler.progress)
    failures: dict[LatencyKey, Failure | None] = {
        key: None if library.path is not None else (FailureKind.COMPILE, library.failure or "does not compile")
        for key, library in zip(todo, compiled, strict=True)
    }
    tasks = [(key, todo[key], lib) for key, lib in zip(todo, compiled, strict=True) if lib.path is not None]
    for done, ((key, _, _), found) in enumerate(profiler.pool.run(tasks, _why_wrong), 1):
        failures[key] = (FailureKind.CRASH, str(found)) if isinstance(found, DeviceLostError) else found
        if profiler.progress:
            profiler.progress(done, len(tasks), "checking kernels")
    for (key, failure), library in zip(failures.items(), compiled, strict=True):
        if failure is None:
            kept[key] = todo[key]
        else:
            table.refused.append(profiler.failure(key, library.source.version, *failure))
            profiler.db.put(table.refused[-1], replace=True)
    return kept


def _why_wrong(session: Session, task: tuple[LatencyKey, Kernel, Compiled]) -> Failure | None:
    """Why a kernel's numbers are not to be trusted, None = they are right."""
    _, kernel, library = task
    assert library.path is not None
    try:
        verify_kernel(session, library.path, library.source.symbol, kernel)
    except DeviceLostError:
        raise
    except VerificationError as e:
        return FailureKind.WRONG_RESULT, str(e)
    except MeasurementError as e:
        return FailureKind.CRASH, str(e)
    return None
