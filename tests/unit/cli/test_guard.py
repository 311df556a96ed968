"""A command's process is watched: crashes are named, signals end it in order, nothing temporary stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are guarded on Linux")

PROGRAM = """
import faulthandler, os, signal, sys, tempfile, time
import click
from tvm_mpq import cli
from tvm_mpq.cli import guard

guard.PATIENCE_SEC = float(os.environ.get("PATIENCE_SEC", guard.PATIENCE_SEC))

@cli.cli.command()
def wait() -> None:
    "Say where things are, then wait."
    with tempfile.TemporaryDirectory() as folder:
        print(os.getpid(), folder, flush=True)
        time.sleep(60)

@cli.cli.command()
@click.argument("number", type=int)
def crash(number: int) -> None:
    "End by a signal, as native code does."
    os.kill(os.getpid(), number)

@cli.cli.command()
def leave() -> None:
    "End without Python, as a library does that calls `exit`."
    os._exit(255)

cli.main()
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def start(
    started: list[subprocess.Popen[str]], tmp_path: Path, *arguments: str, hangup: signal.Handlers = signal.SIG_DFL
) -> subprocess.Popen[str]:
    """hangup: what the program inherits for SIGHUP, whatever the tests were started with; for SIGINT the default."""

    def inherited() -> None:
        signal.signal(signal.SIGHUP, hangup)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it runs in the background ignore it

    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        preexec_fn=inherited,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    started.append(process)
    return process


def waiting(
    started: list[subprocess.Popen[str]], tmp_path: Path, hangup: signal.Handlers = signal.SIG_DFL
) -> tuple[subprocess.Popen[str], int, Path]:
    """The guard, its child's pid, and a temporary folder of the child's."""
    process = start(started, tmp_path, "wait", hangup=hangup)
    assert process.stdout is not None
    pid, folder = process.stdout.readline().split()
    assert Path(folder).is_relative_to(tmp_path)
    return process, int(pid), Path(folder)


def ended(pid: int) -> bool:
    """Within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("to", ["guard", "child", "both"])
def test_a_signal_ends_it_in_order(
    number: signal.Signals, to: str, started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Sent to either, or to both as a terminal does: said once, and cleaned up."""
    process, child, folder = waiting(started, tmp_path)
    for pid in {"guard": [process.pid], "child": [child], "both": [child, process.pid]}[to]:
        os.kill(pid, number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.count("interrupted;")) == (128 + number, 1), err
    assert not folder.exists() and not list(tmp_path.iterdir())


def test_under_nohup_a_closed_terminal_ends_nothing(
    started: list[subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATIENCE_SEC", "3")
    process, child, folder = waiting(started, tmp_path, hangup=signal.SIG_IGN)
    for pid in (child, process.pid):
        os.kill(pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=6)  # the guard wakes once a second
    assert folder.exists()
    monkeypatch.undo()
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM and err.count("interrupted;") == 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE])
def test_a_crash_is_named_in_one_line(
    number: signal.Signals, started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    _, err = start(started, tmp_path, "crash", str(int(number))).communicate(timeout=20)
    assert started[0].returncode == 1
    assert err.startswith(f"error: a native library crashed ({number.name}) in ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_library_that_ends_the_process_is_told(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start(started, tmp_path, "leave")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and err.count("\n") == 1
    assert err.startswith("error: a native library ended the process (exit code 255); ")


def test_who_kills_the_child_is_told(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    """As the kernel does for lack of memory."""
    process, child, _ = waiting(started, tmp_path)
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 137 and "lack of memory" in err and not list(tmp_path.iterdir())


def test_nothing_outlives_a_killed_guard(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    """The kernel ends the child; what it leaves is removed when the program starts next, but not what is in use."""
    process, child, folder = waiting(started, tmp_path)
    _, _, used = waiting(started, tmp_path)
    process.kill()
    assert ended(child) and folder.exists()
    start(started, tmp_path, "targets", "--help").communicate(timeout=20)
    assert not folder.exists() and used.exists()
    assert [path for path in used.parents if path.parent == tmp_path] == list(tmp_path.iterdir())


def test_exit_codes_and_output_pass_through(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    out, _ = start(started, tmp_path, "targets", "--help").communicate(timeout=20)
    assert started[-1].returncode == 0 and out.startswith("Usage: tvm-mpq targets")
    _, err = start(started, tmp_path, "targets", "--nothing").communicate(timeout=20)
    assert started[-1].returncode == 2 and "No such option" in err


def test_without_room_for_temporary_files() -> None:
    code = PROGRAM.replace("cli.main()", "tempfile.tempdir = '/nowhere'\ncli.main()")
    done = subprocess.run([sys.executable, "-c", code, "targets"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: cannot make a folder for temporary files")
