"""Kernels measured on all devices of a pool at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

import tvm

from tvm_mpq.errors import DeviceLostError
from tvm_mpq.schema import FailureKind, LatencyKey, LatencyRecord
from tvm_mpq.tuning.devices.pool import DevicePool
from tvm_mpq.tuning.devices.sentinel import build_sentinel
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure.kernels import KernelJob, MeasureSettings, measure


def measure_at(
    pool: DevicePool, jobs: Sequence[KernelJob], settings: MeasureSettings, *, device: str
) -> Iterator[LatencyRecord]:
    """`measure` on all devices of a pool, in groups; records come as groups are done, their kernel_version empty.

    The jobs of a group that lost its devices are tried once more alone, so that only the guilty one is a failure.
    """
    if not jobs:
        return
    sentinel = pool.sentinel() or build_sentinel()

    def work(session: Session, group: Sequence[KernelJob]) -> list[LatencyRecord]:
        return list(measure(session, group, settings, device=device, kernel_version="", sentinel=sentinel))

    size = max(1, min(settings.group, -(-len(jobs) // pool.width)))
    unlucky: list[list[KernelJob]] = []
    for group, found in pool.run([jobs[i : i + size] for i in range(0, len(jobs), size)], work):
        if isinstance(found, DeviceLostError):
            unlucky += [[job] for job in group]
        else:
            yield from found
    for (job,), found in pool.run(unlucky, work):
        if isinstance(found, DeviceLostError):
            yield failed(job.key, device, "", FailureKind.CRASH, str(found))
        else:
            yield from found


def failed(key: LatencyKey, device: str, kernel_version: str, kind: FailureKind, reason: str) -> LatencyRecord:
    """A record that says why there is no time."""
    now = datetime.now(timezone.utc).isoformat()
    version = str(tvm.__version__)
    return LatencyRecord(
        key, device, version, kernel_version, None, None, 0, now, "measured", failure=reason, failure_kind=kind
    )
