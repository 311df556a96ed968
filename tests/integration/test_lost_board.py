"""Whole jobs on three boards under one tracker key, one of which dies in the middle: they complete and say so.

All three jobs measure by the same pool, which `optimize` shows; that `tune` and `search` report it is what is slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing import onnx_models
from mpq_testing.quick import measure_quickly
from mpq_testing.rpc import Server, rpc_server, rpc_tracker
from tvm_mpq.pipeline import search_network, tune_network
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report import tables
from tvm_mpq.tuning.devices import boards as boards_module
from tvm_mpq.tuning.devices import session as session_module
from tvm_mpq.tuning.measure.kernels import MeasureSettings

QUICK = MeasureSettings(repeats=5, min_repeat_ms=0.1, max_relative_iqr=1e6, max_drift=1e6, group=1)
KEY = "k"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_quickly(monkeypatch, QUICK)
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT_SEC", 1.0)
    monkeypatch.setattr(boards_module, "PATIENCE_SEC", 0.5)
    monkeypatch.setattr(boards_module, "RETRY_SEC", 0.2)


@pytest.fixture
def three() -> Iterator[tuple[int, list[Server]]]:
    """The tracker's port, and three servers that it knows."""
    pytest.importorskip("tornado", reason="TVM's tracker needs tornado (extra `rpc`)")
    with rpc_tracker() as tracker, rpc_server(KEY, tracker.port) as a, rpc_server(KEY, tracker.port) as b:
        with rpc_server(KEY, tracker.port) as c:
            time.sleep(0.5)  # each reports to the tracker after it has said its port
            yield tracker.port, [a, b, c]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sharing: Callable[[Path], Path]) -> Path:
    """With a network; no job compiles what another did."""
    made = tmp_path_factory.mktemp("lost")
    for name in ("latency.db", "search.db"):
        sharing(made / name)
    onnx.save(onnx_models.ends_in_conv(), str(made / "model.onnx"))
    return made


def killing(server: Server, done: int, what: str) -> Callable[[int, int, str], None]:
    """A progress callback that kills a board when so many of a kind are done."""

    def progress(now: int, total: int, doing: str) -> None:
        if (now, doing) == (done, what):
            server.kill()

    return progress


def assert_named(report: dict[str, Any], victim: Server, page: str) -> None:
    """In the report's JSON object and in a page made of it."""
    (lost,) = report["boards"]["lost"]
    assert lost["board"] == f"{KEY} at 127.0.0.1:{victim.port}" and not lost["came_back"]
    assert len(report["boards"]["used"]) == 2 and lost["board"] not in report["boards"]["used"]
    assert f"{lost['board']} was lost" in page


def test_optimize(three: tuple[int, list[Server]], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port, servers = three
    result = mpq.optimize(
        folder / "model.onnx", data=np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32),
        budget=mpq.Budget(size_mb=1.0), precisions=("w8a8", "w4a8"), db=folder / "latency.db", verify_import=False,
        rpc=f"127.0.0.1:{port}", key=KEY, progress=killing(servers[1], 2, "measuring kernels"),
    )  # fmt: skip
    report = json.loads(json.dumps(result.save(folder / "out")))
    assert report["latency_entries"]["measured"] > 3 and report["latency_ms"]["mixed"] > 0
    assert_named(report, servers[1], (folder / "out" / "report.html").read_text(encoding="utf-8"))
    tables.show_optimize(report)
    assert_named(report, servers[1], capsys.readouterr().out)


@pytest.mark.slow
def test_tune(three: tuple[int, list[Server]], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port, servers = three
    options = Options(
        folder / "model.onnx", precisions=("w8a8",), db=folder / "latency.db", rpc=f"127.0.0.1:{port}", key=KEY,
        progress=killing(servers[2], 2, "measuring kernels"),
    )  # fmt: skip
    report = tune_network(options, trials=6)
    assert report["trials"] == 6
    tables.show_tune(report)
    assert_named(report, servers[2], capsys.readouterr().out)


@pytest.mark.slow
def test_search(three: tuple[int, list[Server]], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port, servers = three
    options = Options(
        folder / "model.onnx", data=np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32),
        precisions=("w8a8",), db=folder / "search.db", rpc=f"127.0.0.1:{port}", key=KEY,
        progress=killing(servers[0], 2, "measuring kernels"),
    )  # fmt: skip
    report = search_network(options, points=2, axis="latency")
    assert report["points"]
    tables.show_search(report)
    assert_named(report, servers[0], capsys.readouterr().out)
