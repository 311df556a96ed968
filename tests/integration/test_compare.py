"""`compare` and `search --method` from end to end on a small network; times are measured quickly and mean nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.onnx_models import residual
from mpq_testing.quick import measure_quickly
from tvm_mpq import cli
from tvm_mpq.pipeline import held
from tvm_mpq.select import contest
from tvm_mpq.select.methods.table import METHODS
from tvm_mpq.tuning.measure.kernels import MeasureSettings

RUNNING = tuple(m for m in METHODS if m != "haq" or find_spec("stable_baselines3"))
"""All methods that can run here."""


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this was done before")


@pytest.fixture
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch, MeasureSettings(repeats=5, min_repeat_ms=0.1, max_relative_iqr=1e6, max_drift=1e6))
        yield


def test_methods_side_by_side(
    quick: None, tmp_path: Path, sharing: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One table for all: what runs is what was priced, and nobody beats the solver."""
    made = residual()
    onnx.save(made, str(tmp_path / "m.onnx"))
    value = made.graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    samples = np.random.default_rng(0).normal(size=(6, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "data.npz", **{value.name: samples})
    common = [str(tmp_path / "m.onnx"), "--data", str(tmp_path / "data.npz"), "--db", str(sharing(tmp_path / "db"))]
    common += ["--json", "--precisions", "w8a8", "--evaluations", "200"]
    asked = ["compare", *common, "--budgets", "1.5,0.001", "--eval", str(tmp_path / "data.npz"), "--free-bits"]
    cli.main([*asked, "--measure", "--page", str(tmp_path / "page.html")])
    report = json.loads(capsys.readouterr().out)
    rows = report["rows"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" in page and all(f"> {method}</span>" in page for method in RUNNING)
    assert [(r["budget"], r["method"]) for r in rows] == list(itertools.product((1.5, 0.001), RUNNING))
    within, without = rows[: len(RUNNING)], rows[len(RUNNING) :]
    assert all(r["loss"] is None and r["plan"] == {} and r["reason"] for r in without)
    for row in within:
        assert row["ratio"] <= 1.5 and row["loss"] >= row["bound"] and 0 <= row["gap"] <= 1
        assert row["measured_ms"] > 0 and row["accuracy"] is not None and row["size_mb"] > 0
        assert row["held_loss"] >= 0 and row["loss"] >= within[0]["loss"] * (1 - 1e-9)
        assert set(row["plan"].values()) <= {"fp32", "bf16", "w8a8"}
    assert within[0]["gap"] == 0 and within[0]["status"] == "optimal"
    assert next(r for r in within if r["method"] == "amed")["trace"]

    # Begun again, nothing is searched nor run again: what was found is known.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "_entry", refuse)
        patch.setattr(held, "predict", refuse)
        cli.main(asked)
    again = json.loads(capsys.readouterr().out)["rows"]
    assert [{**row, "measured_ms": None} for row in rows] == again

    cli.main(["search", *common, "--points", "2", "--method", "greedy"])
    found = json.loads(capsys.readouterr().out)
    swept = [p for p in found["points"] if not p["name"]]
    assert found["method"] == "greedy" and all(p["evaluations"] > 0 for p in swept)
    assert {p["status"] for p in swept} == {"heuristic"}
