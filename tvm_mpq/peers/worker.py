"""The process of one engine: builds, loads, and times a turn when told. One JSON line in, one out.

    {"do": "build", "job": {...}}                                -> {"seconds"}
    {"do": "load", "job": {...}, "input": x.npy}                 -> {"load_ms", "first_ms", "versions"}
    {"do": "turn", "seconds": 0.05}                              -> the fields of `rounds.Turn`
    {"do": "outputs", "inputs": x.npy, "to": y.npy}              -> {}

A failure answers {"error": text}, or {"not_offered": text}. The process ends when its standard input closes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from tvm_mpq.peers.common import MODULES, EngineJob, NotOffered, Runner, rows, versions

LEAST_CALLS, WARM_CALLS, WARM_SECONDS = 5, 3, 0.005
_A, _B, _C = (np.full(2048, v, np.float32) for v in (1.0, 0.5, 0.0))


def sentinel_us() -> float:
    """Time of a fixed small loop in the first-level cache: the core's clock, and whether it is shared."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(200):
            np.multiply(_A, _B, out=_C)
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


def waited_seconds() -> float:
    """How long threads of this process were ready to run and had no core; 0 where the kernel does not say."""
    total = 0
    for task in Path("/proc/self/task").glob("*"):
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total / 1e9


def turn(runner: Runner, seconds: float) -> dict[str, Any]:
    """Time calls one by one for at least `seconds`; between readings of the sentinel."""
    warm = time.perf_counter()
    calls = 0
    while calls < WARM_CALLS or time.perf_counter() - warm < WARM_SECONDS:
        runner.run()
        calls += 1
    before = sentinel_us()
    times: list[float] = []
    idle, start = waited_seconds(), time.perf_counter()
    last = start
    while len(times) < LEAST_CALLS or last - start < seconds:
        runner.run()
        now = time.perf_counter()
        times.append(now - last)
        last = now
    waited = (waited_seconds() - idle) / (last - start)
    return {
        "median_us": 1e6 * float(np.median(times)),
        "calls": len(times),
        "before_us": before,
        "after_us": sentinel_us(),
        "waited": waited,
    }


class Worker:
    """Answers messages; holds the loaded network."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        todo = message["do"]
        if todo == "turn":
            assert self._runner is not None
            return turn(self._runner, message["seconds"])
        if todo == "outputs":
            assert self._runner is not None
            results = []
            for x in rows(np.load(message["inputs"], mmap_mode="r")):
                self._runner.feed(x)
                self._runner.run()
                results.append(self._runner.output())
            np.save(message["to"], np.concatenate(results))
            self._runner.feed(rows(np.load(message["inputs"], mmap_mode="r"))[0])
            return {}
        job = EngineJob.from_json(message["job"])
        engine = importlib.import_module(f"tvm_mpq.peers.{MODULES[job.kind]}")
        start = time.perf_counter()
        if todo == "build":
            engine.build(job)
            return {"seconds": time.perf_counter() - start}
        if "torch" not in engine.PACKAGES:
            sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # TVM imports it when it can: it needs it not
        for name in engine.MODULES:
            importlib.import_module(name)
        start = time.perf_counter()
        self._runner = runner = engine.load(job.folder, job.precision, job.threads)
        load_ms = 1e3 * (time.perf_counter() - start)
        runner.feed(np.load(message["input"]))
        start = time.perf_counter()
        runner.run()
        first_ms = 1e3 * (time.perf_counter() - start)
        return {"load_ms": load_ms, "first_ms": first_ms, "versions": versions(engine.PACKAGES)}


def main() -> None:
    # Engines print; only answers may reach the pipe.
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    config = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, config["cores"])
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except NotOffered as e:
            reply = {"not_offered": str(e)}
        except ModuleNotFoundError as e:
            reply = {"not_offered": f"needs {e.name}, which is not installed: pip install 'tvm-mpq[bench]'"}
        except Exception as e:  # noqa: BLE001  reported to the parent, which goes on with the other engines
            traceback.print_exc()
            reply = {"error": " ".join(f"{type(e).__name__}: {e}".split())[:500]}
        out.write(json.dumps(reply) + "\n")
