"""Latency of kernels, measured so that two numbers may be compared.

Candidates take turns: each round times every one of them once, between two readings of a sentinel kernel. A round in
which the sentinel left the time it usually takes on this device says nothing and is not used; a candidate whose rounds
scatter is taken again, and refused with the reason when it keeps scattering. A crash or a hang costs the guilty
candidate only.

State of the caches: one round runs a candidate in a loop for `min_repeat_ms`, so its data are where the loop leaves
them. Inputs are as hot as a tensor its producer has just written; constants stay in the caches too, as far as they fit
there. In a network whose weights together exceed the second-level cache they come from further away; that difference
is a few per cent for convolutions, and the whole-network calibration takes it up. Constants larger than the caches are
read from memory here as there.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tvm

from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.schema import FailureKind, LatencyKey, LatencyRecord, Progress
from tvm_mpq.tuning.devices.sentinel import FUNCTION, build_sentinel, sentinel_args
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure.statistics import TimedRound, Verdict, summarize_samples

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelJob:
    """One kernel to time. Arrays that several jobs share (the same objects) are sent once."""

    key: LatencyKey
    module_path: Path
    function: str
    args: Sequence[npt.NDArray[Any]]  # all arguments in order, the output last


@dataclass(frozen=True)
class MeasureSettings:
    """How carefully to measure.

    repeats rounds are kept per candidate, each a loop of at least min_repeat_ms; warmup rounds before them are not
    counted. A candidate is accepted when IQR / median <= max_relative_iqr, or its IQR is below negligible_iqr_us (a
    fraction of what calling a kernel costs), else taken again up to `retakes` times.
    Rounds whose sentinel is off its usual time (`SpeedBaseline`) by more than max_drift are not used. Candidates take
    turns in groups of `group` (those to be compared should be neighbours). timeout_sec: for one round of one candidate.
    """

    repeats: int = 7
    min_repeat_ms: float = 3.0
    warmup: int = 1
    max_relative_iqr: float = 0.08
    negligible_iqr_us: float = 0.05
    retakes: int = 5
    max_drift: float = 0.10
    group: int = 8
    timeout_sec: float = 30.0

    def __post_init__(self) -> None:
        least = {"repeats": 5, "warmup": 0, "retakes": 0, "group": 1, "negligible_iqr_us": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InvalidValueError(f"{name} must be {lowest} or more (got {getattr(self, name)})")
        for name in ("min_repeat_ms", "max_relative_iqr", "max_drift", "timeout_sec"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidValueError(f"{name} must be finite and above 0 (got {value:g})")


def measure(
    session: Session,
    jobs: Sequence[KernelJob],
    settings: MeasureSettings | None = None,
    *,
    device: str,
    kernel_version: str,
    sentinel: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[LatencyRecord]:
    """Time jobs; yields one record for each, group by group, so that what is done is never lost.

    Parameters
    ----------
    session : Session
        Where to run; restarted when a kernel crashes it.
    device : str
        `DeviceIdentity.key` of the machine behind the session, written into the records.
    kernel_version : str
        Version of the kernels' generator, written into the records.
    sentinel : Path, optional
        From `build_sentinel`; required for a remote session, built for this machine otherwise.
    progress : callable, optional
        Called with (jobs done, jobs in all, workload of the last one).

    Raises
    ------
    DeviceLostError
        The device is gone and does not come back. What a kernel does wrong is a record with a `failure`.
    """
    settings = settings or MeasureSettings()
    if sentinel is None:
        if not session.is_local:
            raise InvalidValueError("a remote session needs sentinel=build_sentinel(target, linker=...) (got none)")
        sentinel = build_sentinel()
    stamp = _Stamp(device, kernel_version)
    done = 0
    for first in range(0, len(jobs), settings.group):
        for job, verdict in _Group(session, jobs[first : first + settings.group], settings, sentinel).run():
            done += 1
            if progress is not None:
                progress(done, len(jobs), job.key.workload)
            yield stamp.record(job.key, verdict)


@dataclass(frozen=True)
class _Stamp:
    device: str
    kernel_version: str

    def record(self, key: LatencyKey, verdict: Verdict) -> LatencyRecord:
        return LatencyRecord(
            key=key,
            device=self.device,
            tvm_version=str(tvm.__version__),
            kernel_version=self.kernel_version,
            median_us=verdict.median_us,
            iqr_us=verdict.iqr_us,
            repeats=verdict.repeats,
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            provenance="measured",
            failure=verdict.failure,
            failure_kind=verdict.kind,
        )


@dataclass
class _Candidate:
    job: KernelJob
    time: Callable[[], float] | None = None  # microseconds of one round; None until prepared on the living session
    samples: list[TimedRound] = dataclasses.field(default_factory=list)
    verdict: Verdict | None = None  # set once it is settled
    lost_device: bool = False  # the connection broke while it ran


class _Group:
    """Candidates that take turns."""

    def __init__(self, session: Session, jobs: Sequence[KernelJob], settings: MeasureSettings, sentinel: Path) -> None:
        self._session, self._settings, self._sentinel_path = session, settings, sentinel
        self._candidates = [_Candidate(job) for job in jobs]
        self._sentinel: Callable[[], float] | None = None
        self._modules: dict[Path, Any] = {}
        self._arrays: dict[int, Any] = {}

    def run(self) -> list[tuple[KernelJob, Verdict]]:
        for _ in range(1 + self._settings.retakes):
            for _ in range(self._settings.repeats):
                while not self._round():  # a crash spoilt it, and settled the one that crashed
                    pass
            for candidate in self._unsettled():
                verdict = self._judge(candidate)
                candidate.verdict = verdict if verdict.failure is None else None
            if not self._unsettled():
                break
        return [(c.job, c.verdict or self._judge(c)) for c in self._candidates]

    def _judge(self, candidate: _Candidate) -> Verdict:
        return summarize_samples(candidate.samples, self._session.baseline, self._settings)

    def _unsettled(self) -> list[_Candidate]:
        return [c for c in self._candidates if c.verdict is None]

    def _round(self) -> bool:
        """One turn of every unsettled candidate, between two readings of the sentinel; False if a crash spoilt it."""
        read_sentinel = self._prepare()
        if not self._unsettled():
            return True
        before = read_sentinel()
        turn: list[tuple[_Candidate, float]] = []
        for candidate in self._unsettled():
            assert candidate.time is not None  # _prepare saw to it
            value = self._guilty(candidate, candidate.time)
            if self._sentinel is None:  # the session was restarted: this round has no second reading
                return False
            if value is not None:
                turn.append((candidate, value))
        after = read_sentinel()
        self._session.baseline.add(before)
        self._session.baseline.add(after)
        for candidate, value in turn:
            candidate.samples.append(TimedRound(value, before, after))
        return True

    def _prepare(self) -> Callable[[], float]:
        """Load, copy and warm up what the present connection does not have yet; returns the sentinel's timing."""
        while True:
            if self._sentinel is None:
                self._sentinel = self._loaded(self._sentinel_path, FUNCTION, sentinel_args())
            waiting = [c for c in self._unsettled() if c.time is None]
            if not waiting:
                return self._sentinel
            job = waiting[0].job
            waiting[0].time = self._guilty(waiting[0], partial(self._loaded, job.module_path, job.function, job.args))

    def _guilty(self, candidate: _Candidate, action: Callable[[], Any]) -> Any:
        """Run `action` for a candidate; what goes wrong settles it. None then."""
        try:
            return action()
        except DeviceLostError as e:
            logger.warning("%s; restarting the session", e)
            # A crash here is the candidate's doing. A board may drop for other reasons, so there it takes two.
            if self._session.is_local or candidate.lost_device:
                candidate.verdict = Verdict(failure=str(e), kind=FailureKind.CRASH)
            candidate.lost_device = True
            self._modules, self._arrays, self._sentinel = {}, {}, None
            for other in self._candidates:
                other.time = None
            self._session.restart()
        except MeasurementError as e:
            candidate.verdict = Verdict(failure=str(e), kind=FailureKind.CRASH)
        return None

    def _loaded(self, path: Path, function: str, args: Sequence[npt.NDArray[Any]]) -> Callable[[], float]:
        """Upload what is missing, choose the length of the loop, warm up; returns the timing of one round."""
        if path not in self._modules:
            self._modules[path] = self._session.upload_module(path)
        for array in args:
            if id(array) not in self._arrays:
                self._arrays[id(array)] = (self._session.array(array), array)  # held, so that the id stays taken
        tensors = [self._arrays[id(array)][0] for array in args]
        return timing(self._session, self._modules[path], function, tensors, self._settings)


def timing(
    session: Session, module: Any, function: str, args: Sequence[Any], settings: MeasureSettings
) -> Callable[[], float]:
    """A callable that times one round (microseconds per run), warmed up, its loop as long as settings ask."""
    limit = settings.timeout_sec
    estimate = min(session.timer(module, function, 1, 2)(*args, timeout_sec=limit))
    if estimate < 20:  # a single run of a short kernel is mostly the clock's own cost
        estimate = min(session.timer(module, function, 50, 2)(*args, timeout_sec=limit))
    number = max(1, math.ceil(settings.min_repeat_ms * 1e3 / max(estimate, 1e-3)))
    run = session.timer(module, function, number)

    def once() -> float:
        (us,) = run(*args, timeout_sec=limit)
        return us

    for _ in range(settings.warmup):
        once()
    return once
