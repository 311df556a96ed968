"""A child that fails says why, whatever its other threads hold."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tvm_mpq import processes
from tvm_mpq.errors import MeasurementError
from tvm_mpq.processes import Child

FAILING = """
from tvm_mpq import processes

config, messages = processes.enter()
messages.get()
import a_package_that_is_not_there
"""


def test_a_child_that_fails_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that reads its messages holds standard input: Python's own end would abort there, without a reason."""
    (tmp_path / "failing_child.py").write_text(FAILING, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    child = Child(processes.module_command("failing_child"), {})
    try:
        child.send({})
        with pytest.raises(
            MeasurementError, match=r"^the process ended with code 1: ModuleNotFoundError: No module named"
        ):
            child.receive(60)
    finally:
        child.kill()


PARENT = """
import sys, time
from tvm_mpq import processes

child = processes.Child(processes.module_command("busy_child"), {"entered": sys.argv[1]})
print(child.pid, flush=True)
time.sleep(600)
"""
BUSY = """
import ctypes, pathlib
from tvm_mpq import processes

config, _ = processes.enter()
pathlib.Path(config["entered"]).touch()
ctypes.PyDLL(None).sleep(600)  # with Python's lock held, as importing a large library does
"""


def test_a_child_that_hears_nothing_ends_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busy_child.py").write_text(BUSY, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    entered = tmp_path / "entered"
    command = [sys.executable, "-c", PARENT, str(entered)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            end = time.monotonic() + 60
            while not entered.exists() and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.2)  # now it sleeps
            parent.kill()
            child.wait(20)
        except psutil.TimeoutExpired:
            child.kill()
            raise
        finally:
            parent.kill()
