"""The calls of a built network, and the time of each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.errors import FileFormatError, UnsteadyError
from tvm_mpq.execute.profile import KernelCall
from tvm_mpq.pipeline import run
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.uniform import build_network
from tvm_mpq.report.tables import show_run
from tvm_mpq.tuning.measure.networks import WholeNetworkLatency


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two equal convolutions, a softmax that takes longer than either, a transposition."""
    tmp_path = tmp_path_factory.mktemp("profile")
    net = OnnxNet({"x": (1, 4, 40, 40)})
    y = net.conv("x", 4, 4, 1, name="block.first")
    y = net.op("Softmax", net.conv(y, 4, 4, 1, name="block.second"), axis=1, name="block.soft")
    path = tmp_path / "model.onnx"
    onnx.save(net.model(y), str(path))
    build_network(Options(path, db=tmp_path / "db", verify_import=False), uniform="fp32").save(tmp_path / "out")
    np.savez(tmp_path / "data.npz", x=np.zeros((1, 4, 40, 40), np.float32))
    return tmp_path


@pytest.fixture
def built(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for each test, beside its data."""
    monkeypatch.setattr(run, "measure_network", lambda *_, **__: WholeNetworkLatency(1.0, 0.0, 1, 1.0, 1.0, 1))
    return Path(shutil.copytree(once, tmp_path / "copy")) / "out"


def test_a_busy_machine_hides_the_time_and_nothing_else(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drifting(*_: object, **__: object) -> None:
        raise UnsteadyError("latency of model.so cannot be stated: it drifts", load_ms=7.0, first_run_us=8000.0)

    monkeypatch.setattr(run, "measure_network", drifting)
    np.savez(built.parent / "two.npz", x=np.zeros((2, 4, 40, 40), np.float32))
    report = run.run_folder(built, built.parent / "two.npz", built)
    assert report["latency_ms"] is None and "drifts" in report["unsteady"]
    assert (report["load_ms"], report["first_run_ms"]) == (7.0, 8.0), "which happen once, and scatter with nothing"
    assert report["samples"] == 2 and report["difference"]["largest_absolute"] == 0
    show_run(report)
    printed = " ".join(capsys.readouterr().out.split())
    assert "drifts" in printed and "largest 0" in printed and "load: 7 ms" in printed and "first run: 8 ms" in printed


def test_each_operator_has_a_time(built: Path) -> None:
    calls = run.run_folder(built, built.parent / "data.npz", profile=True)["profile"]
    found = {call["operator"]: call for call in calls}
    convolutions = [found[name] for name in ("block.first", "block.second")]
    assert len({call["kernel"] for call in convolutions}) == 1  # one code, listed for each operator
    assert any("softmax" in call["kernel"] for call in calls)
    assert all(0.05 < call["us"] < 1e5 for call in calls)


def test_a_folder_without_the_list_is_refused(built: Path) -> None:
    plan = json.loads((built / "plan.json").read_text())
    del plan["info"]["calls"]
    (built / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(FileFormatError, match="does not list the kernels; build it again"):
        run.run_folder(built, built.parent / "data.npz", profile=True)


def test_round_trip() -> None:
    call = KernelCall("a.b", "conv2d_0", (((1, 2), "float32"), ((), "uint8")))
    assert KernelCall.from_json(json.loads(json.dumps(call.to_json()))) == call
    for wrong in (["a", "b"], ["a", "b", [[[1], "no dtype"]]], None):
        with pytest.raises((TypeError, ValueError)):
            KernelCall.from_json(wrong)
