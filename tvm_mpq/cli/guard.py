"""A command runs in a child of this process, which outlives whatever happens to it and says what it was.

The child does all the work. When a native library crashes, or the kernel ends the child for lack of memory, there is
still somebody to say so in one line and to remove temporary files; when this process is killed, the kernel kills the
child. Signals that are sent to this process alone are passed on. On systems other than Linux commands run without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO

import click

from tvm_mpq import scratch

CRASH = "crash"
"""Where a crash is written down; gone when Python ended the child, in whatever way."""

PATIENCE_SEC = 10.0
"""For a child that was asked to end; native code does not listen."""

ONCE_SEC = 0.5
"""Signals that follow this soon are the same one: a terminal sends it to every process, and it is passed on too."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)

_PR_SET_PDEATHSIG = 1

_crashes: list[IO[str]] = []
"""Where traces go; empty in a process that is not guarded."""


class Asked:
    """What the process was asked to end by. number: 0 = not yet."""

    number = 0
    _at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and now - self._at < ONCE_SEC:
            return
        self.number, self._at = number, now
        raise KeyboardInterrupt

    def listen(self) -> None:
        """From now on SIGTERM and SIGHUP end the work like Ctrl-C; what is ignored (nohup) stays so."""
        for number in heard():
            signal.signal(number, self)


def heard() -> list[signal.Signals]:
    """Of those that end a program what this one does not ignore: under nohup a closed terminal ends nothing."""
    return [number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]


asked = Asked()


def guarded(work: Callable[[], None]) -> int | None:
    """Do `work` in a child; returns the exit code in this process, and None in the child once the work is done."""
    if sys.platform != "linux":
        asked.listen()
        work()
        return None
    try:
        root, lock = scratch.claim()
    except OSError as e:
        click.echo(f"error: cannot make a folder for temporary files: {e.strerror}; set TMPDIR", err=True)
        return 1
    watched = {*heard(), signal.SIGCHLD}  # what is ignored would come all the same once it is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    parent = os.getpid()
    child = os.fork()
    if child:
        try:
            status = _watch(child, watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = _told(status, root / CRASH)
        _remove(root)
        lock.close()
        return code
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    asked.listen()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.environ["TMPDIR"], tempfile.tempdir = str(root), None
    with open(root / CRASH, "w", encoding="utf-8") as file:
        _crashes.append(file)
        try:
            watch_crashes()
            work()
        finally:
            faulthandler.disable()
            with contextlib.suppress(OSError):
                (root / CRASH).unlink()
    return None


def watch_crashes() -> None:
    """Write down where Python is when a library crashes; again after TVM is loaded, which prints a trace of its own."""
    if _crashes:
        faulthandler.disable()
        faulthandler.enable(_crashes[0])


def _watch(child: int, watched: set[signal.Signals]) -> int:
    """Pass signals on until the child ends; returns its status."""
    deadline = None
    while True:
        found = signal.sigtimedwait(watched, 1.0)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if found is not None and found.si_signo in ENDING:
            if found.si_code <= 0:  # by a process; what the kernel sends, for a terminal, the child gets itself
                os.kill(child, found.si_signo)
            if found.si_signo != signal.SIGINT:
                deadline = deadline or time.monotonic() + PATIENCE_SEC
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)


def _told(status: int, crash: Path) -> int:
    """The exit code; of a child that did not end by itself, after a line that says how."""
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        if not crash.exists():
            return code
        return _say(f"a native library ended the process (exit code {code}); {_KEPT}; please report it", 1)
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name
    if number in CRASHES:
        text = f"a native library crashed ({name}){_place(crash)}; {_KEPT}; please report it"
    elif number == signal.SIGKILL:
        text = f"the process was ended by SIGKILL, perhaps for lack of memory; {_KEPT}"
    else:
        text = f"the process was ended by {name}; {_KEPT}"
    return _say(text, 1 if number in CRASHES else 128 + number)


_KEPT = "what was measured so far is kept"


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"error: {text}", err=True)
    return code


def _place(crash: Path) -> str:
    """Our innermost line in the trace that Python leaves when it crashes."""
    with contextlib.suppress(OSError):
        lines = re.findall(r'File "([^"]*)", line (\d+) in (\w+)', crash.read_text(encoding="utf-8", errors="replace"))
        ours = [(file, line, where) for file, line, where in lines if re.search(r"tvm_mpq|passes|tuning", file)]
        if ours:
            file, line, where = ours[0]
            return f" in {where} ({Path(file).name}:{line})"
    return ""


def _remove(root: Path) -> None:
    """Processes of the child end a moment after it, and may still write."""
    for _ in range(20):
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        time.sleep(0.1)
