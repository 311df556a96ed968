"""An engine's process: its turns, and how it fails."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tvm_mpq.peers import worker
from tvm_mpq.peers.child import EngineError, EngineProcess
from tvm_mpq.peers.common import NotOffered
from tvm_mpq.peers.rounds import Turn

CORE = sorted(os.sched_getaffinity(0))[:1] if hasattr(os, "sched_getaffinity") else []


class Sleeper:
    def run(self) -> None:
        time.sleep(0.002)


def test_turn_fills_its_time_and_gives_the_median_call() -> None:
    got = Turn(**worker.turn(Sleeper(), 0.03))
    assert 2000 <= got.median_us < 20_000
    assert got.calls >= 5
    assert got.calls * got.median_us >= 15_000
    assert got.before_us > 0 and got.after_us > 0 and got.waited >= 0


def test_an_engine_that_cannot_is_told_from_one_that_fails(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    job = {"kind": "litert", "precision": "int8", "folder": str(tmp_path), "threads": 1}
    job["calibration"] = str(tmp_path / "x.npy")
    with open(tmp_path / "log", "wb") as log, EngineProcess(sys.executable, CORE, 1, log, tmp_path) as process:
        with pytest.raises(NotOffered, match="needs a TFLite file"):
            process.ask(60.0, do="build", job=job)
        with pytest.raises(EngineError, match="KeyError: 'abacus'"):
            process.ask(60.0, do="build", job={**job, "kind": "abacus"})
        with pytest.raises(NotOffered):  # still there
            process.ask(60.0, do="build", job=job)


def test_a_dead_engine_is_an_error(tmp_path: Path) -> None:
    with (
        open(tmp_path / "log", "wb") as log,
        EngineProcess("/bin/false", CORE, 1, log, tmp_path) as process,
        pytest.raises(EngineError, match="ended with code 1"),
    ):
        process.ask(60.0, do="turn", seconds=0.01)
