"""A sample of `benchmarks/faults.py`: one job, each fault once or twice."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script reads /proc")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("faults").Faults(tmp_path_factory.mktemp("faults"), ["search"], seed=1)
    sys.path.remove(str(BENCHMARKS))


def test_kill_9_at_random_moments(faults: Any) -> None:
    faults.kill(2)
    assert faults.failures == [] and faults.done["kill -9 search"] == 2


def test_a_closed_terminal(faults: Any) -> None:
    faults.terminal(1)
    assert faults.failures == []


def test_what_goes_wrong_is_seen(faults: Any) -> None:
    """Or the others would show nothing."""
    ended = importlib.import_module("faults_job").Ended(0, "error: a\nerror: b\n", ["python"], ["x"], 1)
    assert not ended.one_line
    faults.left_behind("made up", ended)
    assert len(faults.failures) == 2
    faults.failures.clear()
