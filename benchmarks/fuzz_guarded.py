"""A case of `fuzz.py` in a process of its own, as the command line runs a command: what ends it is told in one line."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tvm_mpq.cli import guard

MOST_BYTES = 2 * 10**9
"""Of memory, beyond what the process had before the case."""


def guarded(work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """As the command line does it: in a child of a child, whose crash is told in one line."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with this process
        said = io.StringIO()

        def answer_ours() -> None:
            before, answer = _most_memory(), work()
            if _most_memory() - before > MOST_BYTES:  # it may have been given up before it was used
                answer = {"outcome": "fault", "text": f"asked for more than {MOST_BYTES / 1e9:g} GB"}
            os.write(send, json.dumps(answer).encode())

        with contextlib.redirect_stderr(said):
            code = guard.guarded(answer_ours)
        if code:
            lines = said.getvalue().splitlines()
            named = len(lines) == 1 and lines[0].startswith("error: ")
            os.write(send, json.dumps({"outcome": "named" if named else "fault", "text": said.getvalue()}).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    answer: dict[str, str] = json.loads(text or '{"outcome": "fault", "text": "the guard of a process ended with it"}')
    return answer


def _most_memory() -> int:
    """Address space of this process at its largest, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmPeak:"))
