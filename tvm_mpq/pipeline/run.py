"""A built folder as its user meets it: loaded in a process of its own by plain TVM runtime, run and timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tvm_mpq import targets
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.errors import UnsteadyError
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import accuracy, check_labels, relative_error, require_finite
from tvm_mpq.execute.profile import time_calls
from tvm_mpq.pipeline.built_folder import built_plan, open_folder
from tvm_mpq.pipeline.context import open_boards
from tvm_mpq.report.answers import RunReport
from tvm_mpq.tuning.devices.pool import DevicePool, ThisMachine
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.networks import WholeNetworkLatency, measure_network


def run_folder(
    folder: Path,
    data: Path,
    reference: Path | None = None,
    *,
    rpc: str | None = None,
    key: str | None = None,
    profile: bool = False,
) -> RunReport:
    """Accuracy and latency of `folder`/model.so on data; difference to another folder's outputs when given.

    rpc: HOST:PORT of a board to run it on, or with `key` of a tracker; None = this machine. profile: also the time of
    each operator.

    Raises
    ------
    TargetMismatchError
        If the board cannot run what the folder was built for.
    MissingFileError, FileFormatError
        If the folder holds no built library, or a plan that does not say what its inputs are.
    DataError
        If the data do not fit, or outputs hold NaN or infinity.
    """
    built = open_folder(folder)
    inputs, threads = built.inputs, built.threads
    calls = built.calls() if profile else []
    dataset = load_dataset(data, inputs)
    check_labels(dataset.labels, classifies=built.classifies)
    samples = [[sample[n] for n in inputs] for sample in dataset.samples()]
    pool: DevicePool = ThisMachine(threads)
    if rpc is not None:
        pool = open_boards(rpc, key, threads, targets.resolve(built.plan.tvm_target()), None)

    def on_device(
        session: Session,
    ) -> tuple[list[Any], list[Any] | None, WholeNetworkLatency | UnsteadyError, list[float]]:
        outputs = network.run_library(session, built.library, samples)
        compared = None
        if reference is not None:
            built_plan(reference)
            compared = network.run_library(session, reference / "model.so", samples)
        time: WholeNetworkLatency | UnsteadyError
        try:
            time = measure_network(session, built.library, samples[0], presets.NETWORKS, sentinel=pool.sentinel())
        except UnsteadyError as e:  # what the library computes can be told all the same
            time = e
        return outputs, compared, time, time_calls(session, built.library, calls)

    try:
        outputs, compared, time, call_us = pool.do(on_device)
    finally:
        pool.close()
    report: RunReport = {
        "folder": str(folder),
        "latency_ms": None,
        "load_ms": None,
        "first_run_ms": None,
        "samples": len(outputs),
    }
    if isinstance(time, UnsteadyError):
        report["unsteady"] = str(time)
    else:
        report["latency_ms"] = {"median": time.median_us / 1000, "iqr": time.iqr_us / 1000, "threads": threads}
    report["load_ms"] = time.load_ms
    report["first_run_ms"] = None if time.first_run_us is None else time.first_run_us / 1000
    if profile:
        report["profile"] = [
            {"operator": call.operator, "kernel": call.function, "us": us}
            for call, us in zip(calls, call_us, strict=True)
        ]
    require_finite(outputs, str(folder))
    if compared is not None:
        require_finite(compared, str(reference))
    if compared is not None or dataset.labels is not None:
        quality = accuracy(outputs, compared or outputs, dataset.labels, classifies=built.classifies)
        report["accuracy"] = {
            "metric": quality.metric,
            "value": quality.value,
            "hits": quality.hits,
            "samples": quality.samples,
        }
    if compared is not None:
        largest = [float(np.abs(o - r).max()) for o, r in zip(outputs, compared, strict=True)]
        relative = [relative_error(o, r) for o, r in zip(outputs, compared, strict=True)]
        report["difference"] = {"largest_absolute": max(largest), "mean_relative_norm": float(np.mean(relative))}
    return report
