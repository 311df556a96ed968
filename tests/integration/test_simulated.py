"""`search` and `compare` for machines that are not here; nothing is measured on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing.onnx_models import residual
from tvm_mpq import cli
from tvm_mpq.costs.profiler import KernelProfiler
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.tuning.database.latencies import LatencyDatabase


@pytest.fixture
def files(tmp_path: Path, sharing: Callable[[Path], Path]) -> list[str]:
    made = residual()
    onnx.save(made, str(tmp_path / "m.onnx"))
    value = made.graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    samples = np.random.default_rng(0).normal(size=(4, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "data.npz", **{value.name: samples})
    return [str(tmp_path / "m.onnx"), "--data", str(tmp_path / "data.npz"), "--db", str(sharing(tmp_path / "db"))]


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a kernel was to be measured")

    monkeypatch.setattr(KernelProfiler, "measure", refuse)


def test_a_front_for_a_microcontroller(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Plans, energies and a limit on them; what was simulated is there the next time."""
    cli.main(["search", *files, "--latency-source", "mpic", "--points", "4", "--json"])
    report = json.loads(capsys.readouterr().out)
    points = {p["name"] or f"front {i}": p for i, p in enumerate(report["points"])}
    assert report["latency_source"] == "mpic" and report["latency_entries"]["simulated"] > 0
    every = {f"w{w}a{a}" for w in (2, 4, 8) for a in (2, 4, 8)}  # also those that are one code on this CPU
    assert set().union(*(p["plan"].values() for p in points.values())) == every
    eight, two = points["uniform w8a8"], points["uniform w2a2"]
    assert two["latency_ms"] < eight["latency_ms"] and two["energy_mj"] < eight["energy_mj"]
    assert two["size_mb"] < eight["size_mb"]
    with LatencyDatabase(files[-1]) as db:
        assert {r.provenance for r in db.records()} == {"simulated"}

    half = (two["energy_mj"] + eight["energy_mj"]) / 2
    budget = mpq.Budget(energy_mj=half)
    folder = Path(files[-1]).parent / "plans"
    options = {"data": files[2], "db": files[-1], "latency_source": "mpic", "budget": budget}
    kept = mpq.search(files[0], points=3, axis="energy", plans=folder, **options)
    assert kept["latency_entries"] == {"measured": 0, "predicted": 0, "simulated": 0} | {
        "cached": report["latency_entries"]["simulated"]
    }
    swept = [p for p in kept["points"] if not p["name"]]
    assert swept and all(p["energy_mj"] is not None and p["energy_mj"] <= half for p in swept)
    for i, point in enumerate(kept["points"], 1):
        plan = mpq.Plan.load(kept["plans"][point["name"] or f"front {i}"])
        assert plan.operators == point["plan"] and plan.info["latency_source"] == "mpic"
        assert plan.info["energy_mj"] == point["energy_mj"]
    assert len(list(folder.iterdir())) == len(kept["points"])
    with pytest.raises(InfeasibleError, match="energy"):
        mpq.search(files[0], **{**options, "budget": mpq.Budget(energy_mj=1e-9)})


def test_methods_within_shares_of_energy(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    common = ["compare", *files, "--latency-source", "mpic:8cores", "--axis", "energy", "--evaluations", "100"]
    cli.main([*common, "--budgets", "0.8", "--methods", "ilp,greedy", "--json"])
    report = json.loads(capsys.readouterr().out)
    ilp, greedy = report["rows"]
    assert report["axis"] == "energy" and ilp["gap"] == 0
    for row in (ilp, greedy):
        assert row["energy_mj"] <= 0.8 * report["int8_mj"] and row["ratio"] == row["energy_mj"] / report["int8_mj"]
    cli.main([*common, "--budgets", "0.8", "--methods", "ilp"])
    shown = capsys.readouterr().out
    assert "energy mJ" in shown and "simulated (mpic:8cores)" in shown


def test_plans_for_another_machine_are_run_here_beside_fp32(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """fp32, which that machine does not have, is what losses are counted from."""
    asked = ["compare", *files, "--latency-source", "mpic", "--budgets", "0.8", "--methods", "ilp,uniform", "--json"]
    cli.main([*asked, "--eval", files[2]])
    report = json.loads(capsys.readouterr().out)
    fp32, w8a8 = report["uniform"]
    assert (fp32["precision"], fp32["held_loss"], fp32["predicted_ms"]) == ("fp32", 0, None)
    assert (w8a8["precision"], w8a8["predicted_ms"]) == ("w8a8", report["int8_ms"]) and w8a8["held_loss"] > 0
    for row in report["rows"]:
        assert row["held_loss"] > w8a8["held_loss"] and row["measured_ms"] is None


def test_plans_for_another_machine_are_not_timed_here(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["compare", *files, "--latency-source", "mpic", "--measure"])
    assert "a machine that is not here" in capsys.readouterr().err
