"""Child processes that never outlive this one: how they are started here, and how their first lines run there.

Both the local measurement server and the compile workers are such children. TVM's own `PopenWorker` is not used: it
inherits Ctrl-C, cannot be given an environment, and its `kill` leaves a hung worker behind where psutil is missing.

A child reads one JSON line of configuration from standard input, then whatever its parent writes, and ends as soon as
that pipe closes, which the kernel does even when the parent is killed. A child that still imports TVM may not notice:
that holds Python's lock for a second of computing, which a busy machine makes many. So there is a second pipe, on which
nothing is ever written, and when that closes before the child's first answer the kernel itself ends the child. (Linux'
"death signal" would be simpler, but ends children of a thread that ends, and compile workers live on.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tvm_mpq.errors import MeasurementError

# What is importable here must be importable there, however it became so, and in the same order: `-m` would put the
# working directory first. PyTorch, which TVM imports where it finds it, takes a second and has nothing to do here.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[2:]; sys.modules['torch'] = None; "
    "import runpy; runpy.run_module(sys.argv[1], run_name='__main__')"
)


def module_command(module: str) -> list[str]:
    """Runs a module in this Python, with all that is importable here. Its `main()` calls `enter()` first."""
    return [sys.executable, "-c", _BOOTSTRAP, module, *(p or os.getcwd() for p in sys.path)]


class Child:
    """A program running as a process of its own, spoken to in JSON lines.

    Parameters
    ----------
    command : sequence of str
        Such as `module_command` gives.
    config : dict
        Sent as the first line; `cores` (list of int or None) pins the child, `folder` is deleted if the parent dies.
    environment : dict of str to str
        Added to the inherited environment.
    log : binary file, optional
        Where its messages go; by default they are kept for `obituary`.
    folder : Path, optional
        Where it runs; by default here.
    """

    def __init__(
        self,
        command: Sequence[str],
        config: dict[str, Any],
        environment: Mapping[str, str] | None = None,
        *,
        log: IO[bytes] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._messages = tempfile.TemporaryFile() if log is None else None  # noqa: SIM115  closed in kill()
        self._buffer = b""
        theirs, ours = os.pipe()
        self._lifeline = open(ours, "wb", buffering=0)  # noqa: SIM115  closed in kill()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log or self._messages,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for the parent, which then closes its children in order
                pass_fds=(theirs,),
            )
            fcntl.fcntl(theirs, fcntl.F_SETOWN, self._process.pid)
            fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_ASYNC)  # SIGIO, which ends whoever does not handle it
        finally:
            os.close(theirs)
        self.send({**config, "lifeline": theirs})

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        """Write one line. A dead child is noticed by `receive`, not here."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout_sec: float) -> dict[str, Any]:
        """Read one line. Raises TimeoutError, or MeasurementError when the child ended."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout_sec
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise MeasurementError(self.obituary())
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def obituary(self) -> str:
        """One line: how the child ended, and its last words when it had any."""
        try:
            code = self._process.wait(1.0)  # a broken pipe is seen a moment before the end of the process
        except subprocess.TimeoutExpired:
            return "the process runs on and does not answer"
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        lines = []
        if self._messages is not None:
            self._messages.seek(0)
            text = self._messages.read().decode(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
        return f"the process ended with code {code}" + (f": {lines[-1].strip()}" if lines else "")

    def stop(self) -> None:
        """End the child at once; may be called from another thread. Still answers `obituary`."""
        self._process.kill()

    def kill(self) -> None:
        """End the child at once and free everything; harmless when it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._messages, self._lifeline):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes to a dead child
                    stream.close()


_lifeline: int | None = None
"""Descriptor of the second pipe in a child, as long as it is watched by the kernel."""


def enter() -> tuple[dict[str, Any], queue.Queue[dict[str, Any]]]:
    """Called first in a child: read the configuration, pin, watch the parent; messages arrive in the returned queue."""
    global _lifeline
    # Ending the parent must end the child even in the middle of a compilation, so a thread reads, not the main loop.
    stream = sys.stdin.buffer
    config: dict[str, Any] = json.loads(stream.readline())
    _lifeline = config.pop("lifeline")
    if config.get("cores") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, config["cores"])
    # TVM's bindings import torch when they find it: seconds and hundreds of megabytes that a child has no use for.
    sys.modules["torch"] = None  # type: ignore[assignment]
    messages: queue.Queue[dict[str, Any]] = queue.Queue()

    def watch() -> None:
        for line in stream:
            messages.put(json.loads(line))
        if config.get("folder"):
            shutil.rmtree(config["folder"], ignore_errors=True)
        os._exit(0)

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        sys.stderr.flush()
        os._exit(1)  # Python's own end would abort, for `watch` holds the stream, and that would hide the reason

    sys.excepthook = end
    threading.Thread(target=watch, daemon=True).start()
    return config, messages


def reply(message: dict[str, Any]) -> None:
    """Called in a child: write one line to the parent."""
    global _lifeline
    if _lifeline is not None:  # from now on `watch` ends the process, which tidies up as well
        fcntl.fcntl(_lifeline, fcntl.F_SETFL, 0)
        os.close(_lifeline)
        _lifeline = None
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
