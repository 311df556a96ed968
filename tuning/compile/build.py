"""Compile many functions in parallel worker processes; one that fails becomes a result with a reason.

Several functions share a shared library, since the linker costs as much as compiling a small kernel (8 trivial kernels:
0.39 s one by one, 0.13 s together). When such a group fails or exceeds its time, its functions are built one by one,
so that only the guilty one is lost. Workers outlive a call, since each needs a second or more to import TVM.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import queue
import shutil
import tempfile
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tvm
from tvm.support import cc
from tvm.tirx import PrimFunc

from tvm_mpq import scratch
from tvm_mpq.errors import InvalidValueError, MeasurementError, MissingDependencyError
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.processes import Child, module_command

Compilable: TypeAlias = PrimFunc | Kernel
"""Kernels are built by the workers: saying which they are takes a hundredth of what writing a function down does."""


START_TIMEOUT_SEC = 120.0

_idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
"""Workers that wait for the next call; they end with this process."""


@dataclass(frozen=True)
class BuildResult:
    """A library that holds the function `name`, and its object file; or the reason why there is none."""

    name: str
    path: Path | None
    failure: str | None = None
    object: Path | None = None


@dataclass(frozen=True)
class _Group:
    indices: tuple[int, ...]
    number: int


def build_modules(
    items: Sequence[tuple[str, Compilable]],
    target: tvm.target.Target,
    *,
    workers: int = 2,
    timeout_sec: float = 60.0,
    linker: str | None = None,
    folder: str | Path | None = None,
    group_size: int = 8,
) -> Generator[BuildResult, None, None]:
    """Compile each (name, function) for `target` into a shared library; results come as they are made, in any order.

    Who closes the generator before its end stops the workers too.

    Parameters
    ----------
    items : sequence of (str, PrimFunc or Kernel)
        Names are unique C identifiers; they become the functions' names in the libraries.
    target : tvm.target.Target
        What to compile for.
    workers : int
        Processes that compile at the same time.
    timeout_sec : float
        For one group, and again for one function when its group has failed.
    linker : str, optional
        Command that links for the target, such as `aarch64-linux-gnu-g++`; by default the host's compiler.
    folder : path, optional
        Where the libraries go; by default a folder that goes away with this process.
    group_size : int
        Functions a library.

    Raises
    ------
    InvalidValueError
        Names that are no identifiers or not unique; numbers below 1. At once, as what follows.
    MissingDependencyError
        There is no compiler to link with.
    """
    _check(items, workers, timeout_sec, group_size, linker)
    where = Path(folder) if folder is not None else scratch.process_folder()
    where.mkdir(parents=True, exist_ok=True)
    run = _Run(items, target, where, timeout_sec, linker)
    # Smaller groups when there are few functions, so that no worker idles.
    size = max(1, min(group_size, -(-len(items) // workers)))
    for first in range(0, len(items), size):
        run.add(tuple(range(first, min(first + size, len(items)))))
    return run.results(min(workers, -(-len(items) // size)))


class _Run:
    """One call of build_modules: a queue of groups, worked off by threads with a child process each."""

    def __init__(
        self,
        items: Sequence[tuple[str, Compilable]],
        target: tvm.target.Target,
        folder: Path,
        timeout_sec: float,
        linker: str | None,
    ) -> None:
        self._items, self._linker = items, linker
        self._target = json.loads(str(target))
        self._timeout_sec = timeout_sec
        self._folder = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
        self._queue: queue.SimpleQueue[_Group] = queue.SimpleQueue()
        self._groups = 0
        self._lock = threading.RLock()
        self._children: set[Child] = set()
        self._stopped = False
        self._left = len(items)
        self._found: queue.SimpleQueue[BuildResult | None] = queue.SimpleQueue()  # None = a thread has ended
        self._error: BaseException | None = None

    def results(self, workers: int) -> Generator[BuildResult, None, None]:
        """Start that many threads, and give what they make."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            while workers:
                result = self._found.get()
                if result is None:
                    workers -= 1
                else:
                    yield result
        finally:
            self._stop()
        if self._error is not None:
            raise self._error

    def add(self, indices: tuple[int, ...]) -> None:
        with self._lock:
            self._queue.put(_Group(indices, self._groups))
            self._groups += 1

    def _work(self) -> None:
        """Body of a thread: build groups until all functions have a result."""
        child = None
        try:
            while not self._stopped and self._left:
                try:
                    group = self._queue.get(timeout=0.05)  # a group may yet fail and come back in parts
                except queue.Empty:
                    continue
                if child is None:
                    child = self._start()
                failure, healthy = self._build(child, group)
                if not healthy:
                    self._discard(child)
                    child.kill()
                    child = None
                self._record(group, failure)
            if child is not None and not self._stopped:
                self._discard(child)
                _idle.put(child)
                child = None
        except BaseException as e:  # noqa: BLE001  raised again by `results` in the caller's thread
            if not self._stopped:
                self._error = e
                self._stopped = True
        finally:
            if child is not None:
                self._discard(child)
                child.kill()
            self._found.put(None)

    def _start(self) -> Child:
        with self._lock:
            if self._stopped:
                raise MeasurementError("building was stopped")
            child = _waiting_worker()
            if child is not None:
                self._children.add(child)
                return child
            child = Child(module_command("tvm_mpq.tuning.compile.build_worker"), {}, {"TVM_NUM_THREADS": "1"})
            self._children.add(child)
        try:
            child.receive(START_TIMEOUT_SEC)
        except TimeoutError as e:
            raise MeasurementError(f"a compile worker was not ready within {START_TIMEOUT_SEC:g} s") from e
        return child

    def _discard(self, child: Child) -> None:
        """From now on `stop` leaves this child alone."""
        with self._lock:
            self._children.discard(child)

    def _build(self, child: Child, group: _Group) -> tuple[str | None, bool]:
        """Reason of failure or None, and whether the child can go on."""
        picked = self._pick(group)
        functions = {name: func for name, func in picked if isinstance(func, PrimFunc)}
        kernels = {name: func.to_json() for name, func in picked if isinstance(func, Kernel)}
        source = self._folder / f"{group.number}.json"
        code = {"module": tvm.ir.save_json(tvm.IRModule(functions)), "kernels": kernels}
        source.write_text(json.dumps(code), encoding="utf-8")
        job: dict[str, Any] = {"code": str(source), "target": self._target, "linker": self._linker}
        objects = {name: str(self._object(name)) for name, _ in picked}
        child.send({**job, "library": str(self._library(group)), "objects": objects})
        try:
            return child.receive(self._timeout_sec)["failure"], True
        except TimeoutError:
            return f"compiling took longer than {self._timeout_sec:g} s", False
        except MeasurementError as e:
            return f"the compiler crashed: {e}", False
        finally:
            with contextlib.suppress(OSError):
                source.unlink()

    def _record(self, group: _Group, failure: str | None) -> None:
        if failure is not None and len(group.indices) > 1:
            for index in group.indices:
                self.add((index,))
            return
        with self._lock:
            for name, _ in self._pick(group):
                if failure is None:
                    result = BuildResult(name, self._library(group), object=self._object(name))
                else:
                    result = BuildResult(name, None, failure)
                self._found.put(result)
                self._left -= 1

    def _pick(self, group: _Group) -> list[tuple[str, Compilable]]:
        return [self._items[index] for index in group.indices]

    def _library(self, group: _Group) -> Path:
        return self._folder / f"kernels_{group.number}.so"

    def _object(self, name: str) -> Path:
        return self._folder / f"{name}.o"

    def _stop(self) -> None:
        """End what still runs, as after Ctrl-C."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.stop()


def _waiting_worker() -> Child | None:
    """A live idle worker, or None."""
    with contextlib.suppress(queue.Empty):
        while True:
            child = _idle.get_nowait()
            if child.alive():
                return child
            child.kill()
    return None


@atexit.register
def end_workers() -> None:
    """End the idle workers; the next call starts new ones."""
    while (child := _waiting_worker()) is not None:
        child.kill()


def _check(
    items: Sequence[tuple[str, Compilable]], workers: int, timeout_sec: float, group_size: int, linker: str | None
) -> None:
    for text, value in (("workers", workers), ("group_size", group_size)):
        if value < 1:
            raise InvalidValueError(f"{text} must be 1 or more (got {value})")
    if not timeout_sec > 0:
        raise InvalidValueError(f"timeout_sec must be above 0 (got {timeout_sec:g})")
    names = [name for name, _ in items]
    odd = [name for name in names if not (name.isidentifier() and name.isascii())]
    if odd or len(set(names)) != len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise InvalidValueError(f"function names must be unique C identifiers (got {odd or double})")
    if linker is not None and shutil.which(linker) is None:
        raise MissingDependencyError(f"no linker {linker!r} on PATH; install the cross compiler that brings it")
    if linker is None and cc.get_cc() is None:
        raise MissingDependencyError("a C++ compiler is needed to link kernels; install g++ or clang++")
