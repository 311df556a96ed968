"""Everything on a board: a plain TVM RPC server on loopback, which is this CPU, so that it must agree with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing import onnx_models
from mpq_testing.offered import some_bits
from mpq_testing.quick import measure_quickly
from mpq_testing.rpc import Server, rpc_server
from tvm_mpq import cli
from tvm_mpq.execute import network
from tvm_mpq.pipeline.result import Result
from tvm_mpq.targets import device_identity, local_row
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.results import ResultStore
from tvm_mpq.tuning.devices.local_session import LocalSession
from tvm_mpq.tuning.devices.session import RpcSession
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.kernels import MeasureSettings

QUICK = MeasureSettings(repeats=5, min_repeat_ms=0.2, max_relative_iqr=1e6, max_drift=1e6)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with rpc_server() as started:
        yield started


@pytest.fixture(scope="module")
def both(server: Server, tmp_path_factory: pytest.TempPathFactory, sharing: Callable[[Path], Path]) -> dict[str, Any]:
    """The same network optimized here and on the board, each with a database of its own."""
    folder = tmp_path_factory.mktemp("both")
    onnx.save(onnx_models.ends_in_conv(), str(folder / "m.onnx"))
    data = np.random.default_rng(3).normal(size=(6, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=data)
    given = {"data": folder / "data.npz", "budget": mpq.Budget(size_mb=1.0), "precisions": some_bits()}
    given["verify_import"] = False
    rpc = f"127.0.0.1:{server.port}"
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch, QUICK)
        here = mpq.optimize(folder / "m.onnx", db=sharing(folder / "here.db"), **given)
        board = mpq.optimize(folder / "m.onnx", db=sharing(folder / "board.db"), rpc=rpc, **given)  # the same target
    here.save(folder / "here")
    board.save(folder / "board")
    return {"here": here, "board": board, "folder": folder, "data": data, "rpc": rpc}


def test_ohq_needs_no_data_and_estimates_on_the_board(both: dict[str, Any]) -> None:
    """Kernels, synthetic inputs, masks: what the board answers is what this CPU does."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch, QUICK)
        for where, rpc in (("here", None), ("board", both["rpc"])):
            db = both["folder"] / f"{where}.db"
            report = mpq.search(
                both["folder"] / "m.onnx", db=db, rpc=rpc, method="ohq", points=2, precisions=some_bits()
            )
            assert report["method"] == "ohq" and len(report["points"]) > 2
            with LatencyDatabase(db) as held, held.store.translated() as connection:
                rows = connection.execute("SELECT value FROM results WHERE kind = 'masked'").fetchall()
            ((value,),) = rows
            found[where] = json.loads(value)
    assert found["board"].keys() == found["here"].keys() and len(found["here"]) > 3
    assert found["board"] == pytest.approx(found["here"], rel=1e-5)


def test_the_board_is_known_as_this_cpu(both: dict[str, Any]) -> None:
    identity = device_identity(local_row(), 1).key
    assert both["board"].report["device"] == both["here"].report["device"] == identity
    with LatencyDatabase(both["folder"] / "board.db") as db:
        assert {record.device for record in db.records()} == {identity}


def test_plan_and_tables_have_the_same_shape(both: dict[str, Any]) -> None:
    here, board = (both[name].report for name in ("here", "board"))
    assert list(here["plan"]) == list(board["plan"])
    assert [sorted(o["candidates"]) for o in here["operators"]] == [sorted(o["candidates"]) for o in board["operators"]]
    assert here["latency_entries"] == board["latency_entries"]
    assert board["latency_entries"]["measured"] > 0
    assert (here["boards"], board["boards"]["lost"], board["boards"]["emulated"]) == (None, [], False)
    assert all(isinstance(r["health"][when], dict) for r in (here, board) for when in ("start", "end"))


def test_its_integers_are_ours(both: dict[str, Any]) -> None:
    """Ranges and losses come from what the board's kernels computed: equal to the last bit."""
    here, board = both["here"], both["board"]
    assert here.plan.tensors.keys() == board.plan.tensors.keys()
    assert [o["candidates"][c]["loss"] for o in here.report["operators"] for c in sorted(o["candidates"])] == [
        o["candidates"][c]["loss"] for o in board.report["operators"] for c in sorted(o["candidates"])
    ]
    assert here.report["accuracy"]["int8"] == board.report["accuracy"]["int8"]
    inputs = [[both["data"][i : i + 1]] for i in range(3)]
    with LocalSession() as session, RpcSession("127.0.0.1", int(both["rpc"].split(":")[1])) as far:
        path = both["folder"] / "board" / "model.so"
        for a, b in zip(
            network.run_library(session, path, inputs), network.run_library(far, path, inputs), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_a_second_run_measures_nothing(both: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "KERNELS", QUICK)
    again: Result = mpq.optimize(
        both["folder"] / "m.onnx",
        db=both["folder"] / "board.db",
        rpc=both["rpc"],
        data=both["folder"] / "data.npz",
        budget=mpq.Budget(size_mb=1.0),
        precisions=some_bits(),
    )
    assert again.report["latency_entries"]["measured"] == 0
    assert again.plan.operators == both["board"].plan.operators
    with LatencyDatabase(both["folder"] / "board.db") as db:
        assert ResultStore(db).get("health", again.report["device"]) == again.report["health"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*args: object) -> dict[str, Any]:
        cli.main([*map(str, args), "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_devices(server: Server, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    (far,) = run("devices", "--rpc", f"127.0.0.1:{server.port}")["devices"]
    (here,) = run("devices")["devices"]
    same = ("architecture", "cpu_model", "core_type", "isa_features", "cores", "emulated", "targets")
    assert {name: far[name] for name in same} == {name: here[name] for name in same}
    assert far["health"]["load"] is not None and far["round_trip_ms"] > 0
    cli.main(["devices", "--rpc", f"127.0.0.1:{server.port}"])
    assert far["cpu_model"] in capsys.readouterr().out


def test_build_and_run_on_the_board(
    both: dict[str, Any], run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rpc = both["folder"], both["rpc"]
    measure_quickly(monkeypatch, QUICK)
    run(
        "build", folder / "m.onnx", "--uniform", "w8a8", "--data", folder / "data.npz", "--db", folder / "board.db",
        "--rpc", rpc, "--out", folder / "int8",
    )  # fmt: skip
    found = run("run", folder / "int8", "--data", folder / "data.npz", "--reference", folder / "here", "--rpc", rpc)
    assert found["samples"] == 6 and found["latency_ms"]["median"] > 0
    assert found["difference"]["mean_relative_norm"] < 0.1
