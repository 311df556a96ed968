"""A child that fails says why, whatever its other threads hold."""

from __future__ import annotations

from pathlib import Path

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
