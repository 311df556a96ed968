"""Latency of whole networks, and what the Relax virtual machine adds to each kernel.

Loading, first run and steady run are three numbers. Networks to be compared are timed in turns, in one process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
from tvm import relax

from tvm_mpq.errors import UnsteadyError
from tvm_mpq.schema import FailureKind
from tvm_mpq.tuning.devices.baseline import SpeedBaseline
from tvm_mpq.tuning.devices.sentinel import FUNCTION, build_sentinel, sentinel_args
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure.kernels import MeasureSettings, timing
from tvm_mpq.tuning.measure.statistics import TimedRound, Verdict, summarize_samples


@dataclass(frozen=True)
class WholeNetworkLatency:
    """One network on one device.

    rounds_us: by the rounds' numbers, those that did not count for the median too; sentinel_us: what the sentinel took
    around the same rounds, empty without one.
    """

    median_us: float  # steady run
    iqr_us: float
    repeats: int
    load_ms: float  # loading the library, and setting up the virtual machine with the weights
    first_run_us: float  # the connection's own delay taken off
    threads: int
    rounds_us: Mapping[int, float] = field(default_factory=dict)
    sentinel_us: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkJob:
    """A compiled Relax library and the inputs of its function, in order."""

    path: Path
    inputs: Sequence[npt.NDArray[Any]]
    function: str = "main"


def measure_network(
    session: Session,
    path: str | Path,
    inputs: Sequence[npt.NDArray[Any]],
    settings: MeasureSettings | None = None,
    *,
    function: str = "main",
    sentinel: Path | None = None,
) -> WholeNetworkLatency:
    """Time one network; see `measure_networks`."""
    return measure_networks(session, [NetworkJob(Path(path), inputs, function)], settings, sentinel=sentinel)[0]


def measure_networks(
    session: Session,
    jobs: Sequence[NetworkJob],
    settings: MeasureSettings | None = None,
    *,
    sentinel: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[WholeNetworkLatency]:
    """Time several networks in turns, so that their ratios hold.

    The sentinel (from `build_sentinel`, built for this machine when the session is local) shows drift; a remote
    session without one is judged by its scatter alone. progress: called with the rounds done and those planned, which
    grow where some are taken again.

    Raises
    ------
    MeasurementError
        A network cannot run, or its times still scatter after all retakes.
    DeviceLostError
        The device died or hung.
    """
    settings = settings or MeasureSettings()
    if sentinel is None and session.is_local:
        sentinel = build_sentinel()
    read_sentinel: Callable[[], float] = lambda: 1.0  # noqa: E731
    baseline = SpeedBaseline()
    if sentinel is not None:
        baseline = session.baseline
        arrays = [session.array(a) for a in sentinel_args()]
        read_sentinel = timing(session, session.upload_module(sentinel), FUNCTION, arrays, settings)
    networks = [_Network(session, job, settings) for job in jobs]
    open_ = list(networks)
    numbers = itertools.count()
    for take in range(1, 2 + settings.retakes):
        for number in itertools.islice(numbers, settings.repeats):
            before = read_sentinel()
            values = [network.once() for network in open_]
            after = read_sentinel()
            baseline.add(before)
            baseline.add(after)
            for network, value in zip(open_, values, strict=True):
                network.samples.append(TimedRound(value, before, after))
                network.rounds_us[number] = value
                if sentinel is not None:
                    network.sentinel_us[number] = (before + after) / 2
            if progress:
                progress(number + 1, take * settings.repeats)
        for network in open_:
            network.verdict = summarize_samples(network.samples, baseline, settings)
        open_ = [network for network in open_ if network.verdict.failure is not None]
        if not open_:
            break
    return [network.latency() for network in networks]


class _Network:
    """A network loaded and run once, ready to be timed."""

    def __init__(self, session: Session, job: NetworkJob, settings: MeasureSettings) -> None:
        self._path, self._threads = job.path, session.threads
        limit = max(settings.timeout_sec, session.timeout_sec)
        name = session.upload(job.path, limit)
        inputs = [session.array(array, limit) for array in job.inputs]
        start = time.perf_counter()
        library = session.load_uploaded(name, limit)
        machine = session.guarded(
            f"set-up of {job.path.name}", lambda: relax.VirtualMachine(library, session.device), limit
        )
        self._load_ms = (time.perf_counter() - start) * 1e3
        session.guarded(f"inputs of {job.path.name}", lambda: machine.set_input(job.function, *inputs), limit)
        delay = min(_elapsed_us(lambda: session.guarded("an empty call", session.device.sync)) for _ in range(5))
        first = _elapsed_us(lambda: session.call(machine.module, "invoke_stateful", job.function, timeout_sec=limit))
        self._first_run_us = max(0.0, first - delay)
        self.once = timing(session, machine.module, "invoke_stateful", [job.function], settings)
        self.samples: list[TimedRound] = []
        self.rounds_us: dict[int, float] = {}
        self.sentinel_us: dict[int, float] = {}
        self.verdict = Verdict(failure="never timed", kind=FailureKind.UNTIMED)

    def latency(self) -> WholeNetworkLatency:
        verdict = self.verdict
        if verdict.median_us is None or verdict.iqr_us is None:
            text = f"latency of {self._path.name} cannot be stated: {verdict.failure}"
            raise UnsteadyError(text, load_ms=self._load_ms, first_run_us=self._first_run_us)
        return WholeNetworkLatency(
            verdict.median_us,
            verdict.iqr_us,
            verdict.repeats,
            self._load_ms,
            self._first_run_us,
            self._threads,
            self.rounds_us,
            self.sentinel_us,
        )


def _elapsed_us(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e6
