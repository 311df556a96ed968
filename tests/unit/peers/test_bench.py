"""`bench` on a small network: what it reports, and what it says when something is missing."""

from __future__ import annotations

import dataclasses
import json
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing import onnx_models
from tvm_mpq import targets
from tvm_mpq.errors import DataError, InvalidValueError, UnsupportedModelError
from tvm_mpq.peers import bench
from tvm_mpq.peers.bench import bench_model, fixed_sizes
from tvm_mpq.peers.child import EngineProcess
from tvm_mpq.peers.common import NotOffered
from tvm_mpq.peers.compare import Comparison, Settings, Subject
from tvm_mpq.pipeline.context import open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.peer_times import peer_times
from tvm_mpq.report.peers import show_peers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "small.onnx"
    onnx.save(onnx_models.GRAPHS["two_outputs"](), str(path))
    return path


@pytest.mark.slow
def test_ours_is_compared_with_what_is_installed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    settings = Settings(
        tmp_path / "cache",
        ("ours-int8", "ours-fp32", "ours-w4a8", "litert-int8"),
        rounds=1,
        attempts=1,
        turn_ms=1.0,
        db=str(tmp_path / "db.sqlite"),
        say=said.append,
    )
    report = json.loads(json.dumps(bench_model(model, settings, [1])))
    (row,) = report["rows"]
    assert row["images"] == "synthetic (standard normal)" and row["threads"] == 1
    assert row["engines"].keys() == {"ours-int8", "ours-fp32", "ours-w4a8"}
    assert row["ratios"]["w4a8, to ours"]["peer"] == "ours-int8" and row["ratios"]["w4a8"] is None
    assert all(entry["median_ms"] > 0 for entry in row["engines"].values())
    assert row["engines"]["ours-int8"]["reference"] == "ours-fp32"
    assert 0 < row["engines"]["ours-int8"]["relative_error"] < 0.5
    assert row["skipped"] == {"litert-int8": "needs a TFLite file or a torch network"}
    assert any("building ours-int8" in line for line in said)
    show_peers(report)
    shown = capsys.readouterr().out
    assert "ours-int8" in shown and "without litert-int8: needs a TFLite file" in shown


def test_times_of_other_engines_are_kept_for_reports(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the network and the device as `optimize` knows them; a later `bench` of one engine leaves the others."""

    def measured(**medians: float) -> None:
        engines = {name.replace("_", "-"): {"median_ms": ms} for name, ms in medians.items()}
        report = {"rows": [{"threads": 1, "engines": engines}]}
        monkeypatch.setattr(bench, "compare", lambda *_: iter([report]))
        assert bench_model(model, Settings(tmp_path, ("ours-int8",), db=str(tmp_path / "db.sqlite")), [1]) is report

    measured(ours_int8=1.0, openvino_int8=3.0, openvino_fp32=9.0)
    measured(ort_int8=2.0)
    with open_context(Options(model, db=tmp_path / "db.sqlite"), compile_only=True) as context:
        found = peer_times(context.db, context.prepared.loaded.fingerprint, context.device.key)
    assert [(t["engine"], t["latency_ms"]) for t in found] == [
        ("ort-int8", 2.0),
        ("openvino-int8", 3.0),
        ("openvino-fp32", 9.0),
    ]


def test_a_network_built_for_another_cpu_is_built_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(kind: str) -> Path:
        with (tmp_path / "log").open("wb") as log:
            subject = Subject("small", calibration=model, check=model, images="none", onnx=model)
            return Comparison(Settings(tmp_path), subject, 1, log)._job(kind).folder

    here = {kind: folder(kind) for kind in ("ours-int8", "ort-int8")}
    row = dataclasses.replace(targets.local_row(), isa_features=("sse2",))
    monkeypatch.setattr(targets, "local_row", lambda: row)
    assert folder("ours-int8") != here["ours-int8"] and folder("ort-int8") == here["ort-int8"]


def test_bad_input_is_one_line(model: Path, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "cache")
    with pytest.raises(InvalidValueError, match="threads must be at most"):
        bench_model(model, settings, [10_000])
    with pytest.raises(InvalidValueError, match="bench compares"):
        bench_model(tmp_path / "net.pt2", settings, [1])
    two = tmp_path / "two.onnx"
    onnx.save(onnx_models.GRAPHS["two_inputs"](), str(two))
    with pytest.raises(UnsupportedModelError, match="one input; two"):
        bench_model(two, settings, [1])
    np.savez(tmp_path / "wrong.npz", nonsense=np.zeros((4, 3), np.float32))
    with pytest.raises(DataError):
        bench_model(model, settings, [1], data=tmp_path / "wrong.npz")


def test_an_engines_python_needs_no_project(tmp_path: Path) -> None:
    """A Python that has only numpy answers; what it lacks is said, not thrown."""
    venv.create(tmp_path / "bare")
    numpy_home = Path(np.__file__).parents[1]
    (site,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    for found in numpy_home.glob("numpy*"):
        (site / found.name).symlink_to(found)
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    job = {"kind": "openvino", "precision": "fp32", "folder": str(tmp_path), "threads": 1, "onnx": "none.onnx"}
    job["calibration"] = str(tmp_path / "x.npy")
    python = str(tmp_path / "bare" / "bin" / Path(sys.executable).name)
    with (tmp_path / "log").open("wb") as log, EngineProcess(python, [0], 1, log, tmp_path) as process:
        with pytest.raises(NotOffered, match="needs openvino, which is not installed"):
            process.ask(60.0, do="build", job=job)


def test_every_free_axis_is_fixed_for_the_engines(tmp_path: Path) -> None:
    proto = onnx_models.GRAPHS["two_outputs"]()
    sizes = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    for value in (*proto.graph.input[:1], *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}{axis}"
    onnx.save(proto, str(tmp_path / "free.onnx"))
    graph = onnx.load(str(fixed_sizes(tmp_path / "free.onnx", sizes, tmp_path / "fixed.onnx"))).graph
    for value in (*graph.input[:1], *graph.output):
        assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim), value.name
