"""A simulator in a process of its own: slow to import, generous with messages, and gone with this process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tvm_mpq import processes
from tvm_mpq.errors import MeasurementError, MissingDependencyError
from tvm_mpq.processes import Child

TIMEOUT_SEC = 1800.0
"""For one operator; the largest seen takes a minute."""


def answers(worker: str, config: dict[str, Any], jobs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each job's answer, in order, from a module whose `main` is `serve`d. Starts nothing where there are no jobs.

    Raises
    ------
    MeasurementError
        If a job fails, with the simulator's words.
    """
    if not jobs:
        return
    # The tools compute in Python; threads of NumPy's libraries would only take cores from others.
    child = Child(processes.module_command(worker), config, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    try:
        for job in jobs:
            child.send(job)
            try:
                answer = child.receive(TIMEOUT_SEC)
            except TimeoutError as e:
                raise MeasurementError(f"{worker}: no answer within {TIMEOUT_SEC:g} s for {job}") from e
            if "failure" in answer:
                raise MeasurementError(f"{worker} failed on {job}: {answer['failure']}")
            yield answer
    finally:
        child.kill()


def serve(start: Callable[[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """In the child: answer jobs one after the other. start: from the configuration to what does a job."""
    config, messages = processes.enter()
    _run(start(config), messages)


def _run(work: Callable[[dict[str, Any]], dict[str, Any]], messages: queue.Queue[dict[str, Any]]) -> None:
    while True:
        job = messages.get()
        try:
            answer = work(job)
        except Exception as e:  # noqa: BLE001  whatever the simulator says is this job's result
            answer = {"failure": f"{type(e).__name__}: {e}"[:300]}
        processes.reply(answer)


def require(package: str, distribution: str, source: str) -> None:
    """Raises MissingDependencyError where a simulator's package is not installed; it is not imported."""
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"latency source {source!r} needs the package {distribution}: pip install 'tvm-mpq[sim]'"
            + (" (ZigZag needs Python 3.11 or newer)" if sys.version_info < (3, 11) else "")
        )


def installed_folder(package: str) -> Path:
    """Where a package that is installed stands, without importing it."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations, f"{package} is required before it is used"
    return Path(next(iter(found.submodule_search_locations)))
