"""Latency of whole networks, and what the Relax virtual machine adds to each kernel.

Loading, first run and steady run are three numbers. Networks to be compared are timed in turns, in one process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.support import cc

from tvm_mpq.errors import MeasurementError
from tvm_mpq.tuning.measure import MeasureSettings, timing
from tvm_mpq.tuning.sentinel import FUNCTION, build_sentinel, sentinel_args
from tvm_mpq.tuning.session_base import Session
from tvm_mpq.tuning.statistics import Pace, Sample, Verdict, judge

EXEC_MODE = "compiled"
"""The virtual machine's main function as machine code: a call costs about half of what the interpreter takes."""


def compile_network(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Executable:
    """A network as it is measured and shipped."""
    return relax.build(mod, target, exec_mode=EXEC_MODE)


@dataclass(frozen=True)
class WholeNetworkLatency:
    """One network on one device."""

    median_us: float  # steady run
    iqr_us: float
    repeats: int
    load_ms: float  # loading the library, and setting up the virtual machine with the weights
    first_run_us: float  # the connection's own delay taken off
    threads: int


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
) -> list[WholeNetworkLatency]:
    """Time several networks in turns, so that their ratios hold.

    The sentinel (from `build_sentinel`, built for this machine when the session is local) shows drift; a remote
    session without one is judged by its scatter alone.

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
    pace = Pace()
    if sentinel is not None:
        pace = session.pace
        arrays = [session.array(a) for a in sentinel_args()]
        read_sentinel = timing(session, session.upload_module(sentinel), FUNCTION, arrays, settings)
    networks = [_Network(session, job, settings) for job in jobs]
    open_ = list(networks)
    for _ in range(1 + settings.retakes):
        for _ in range(settings.repeats):
            before = read_sentinel()
            values = [network.once() for network in open_]
            after = read_sentinel()
            pace.add(before)
            pace.add(after)
            for network, value in zip(open_, values, strict=True):
                network.samples.append(Sample(value, before, after))
        for network in open_:
            network.verdict = judge(network.samples, pace, settings)
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
        self.samples: list[Sample] = []
        self.verdict = Verdict(failure="never timed")

    def latency(self) -> WholeNetworkLatency:
        verdict = self.verdict
        if verdict.median_us is None or verdict.iqr_us is None:
            raise MeasurementError(f"latency of {self._path.name} cannot be stated: {verdict.failure}")
        return WholeNetworkLatency(
            verdict.median_us, verdict.iqr_us, verdict.repeats, self._load_ms, self._first_run_us, self._threads
        )


def _elapsed_us(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e6


_TRIVIAL = """
# from tvm.script import tirx as T
@T.prim_func(s_tir=True)
def trivial(A: T.Buffer((16,), "float32"), O: T.Buffer((16,), "float32")):
    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
    for i in T.vectorized(16):
        O[i] = A[i]
"""
_FEW, _MANY = 1, 65


def call_overhead_us(
    session: Session,
    settings: MeasureSettings | None = None,
    *,
    target: tvm.target.Target | None = None,
    linker: str | None = None,
    sentinel: Path | None = None,
) -> float:
    """Microseconds that one `call_tir` costs in the virtual machine beside the kernel's own work.

    The slope between a network of 1 and of 65 calls of a kernel that copies 64 bytes, so that what a run costs once is
    not in it. For a remote session give target, linker and sentinel as for its kernels.
    """
    chosen = tvm.target.Target({"kind": "llvm"}) if target is None else target
    with tempfile.TemporaryDirectory(prefix="tvm-mpq-") as folder:
        path = Path(folder) / "calls.so"
        fcompile = cc.cross_compiler(linker) if linker is not None else None
        compile_network(chains(), chosen).export_library(str(path), fcompile=fcompile)
        value = [np.ones(16, np.float32)]
        jobs = [NetworkJob(path, value, f"calls_{count}") for count in (_FEW, _MANY)]
        few, many = measure_networks(session, jobs, settings, sentinel=sentinel)
    return max(0.0, (many.median_us - few.median_us) / (_MANY - _FEW))


def chains() -> tvm.IRModule:
    """Functions calls_1 and calls_65: as many calls of the trivial kernel, each on the result of the one before."""
    builder = relax.BlockBuilder()
    kind = relax.TensorType((16,), "float32")
    kernel = builder.add_func(tvm.script.from_source(_TRIVIAL), "trivial")
    for count in (_FEW, _MANY):
        value = start = relax.Var("x", kind)
        with builder.function(f"calls_{count}", [start]):
            for _ in range(count):
                value = builder.emit(relax.call_tir(kernel, (value,), kind))
            builder.emit_func_output(value)
    return builder.get()
