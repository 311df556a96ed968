"""`optimize --dry-run`: what would be measured, by what the database knows, and nothing is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing.onnx_models import OnnxNet
from tvm_mpq import cli
from tvm_mpq.costs import profiler
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import open_context
from tvm_mpq.pipeline.forecast import remember_pace, remember_rest


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two equal convolutions; measuring anything fails the test."""

    def measured(*args: Any, **options: Any) -> Any:
        raise AssertionError("something was measured")

    monkeypatch.setattr(profiler, "measure_at", measured)
    net = OnnxNet({"x": (1, 8, 6, 6)})
    onnx.save(net.model(net.conv(net.conv("x", 8, 8), 8, 8)), str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


def test_the_forecast_is_by_this_devices_pace(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"db": tmp_path / "latency.db", "precisions": ["w8a8"]}
    found = mpq.forecast(model, **given)
    kernels = found["kernels"]
    assert kernels["known"] == 0 and kernels["needed"] == kernels["to_measure"] > 2
    assert sum(found["precisions"].values()) == kernels["to_measure"] and {"fp32", "w8a8"} <= found["precisions"].keys()
    assert (found["measuring_sec"], found["pace"], found["rest_sec"]) == (None, None, None)

    with open_context(Options(model, verify_import=False, **given)) as context:
        remember_pace(context, 9, 90.0)
        assert mpq.forecast(model, **given)["pace"] is None, "too few to stand on"
        remember_pace(context, 20, 50.0)
        remember_rest(context, 33.0)
    found = mpq.forecast(model, **given)
    assert found["measuring_sec"] == kernels["to_measure"] * 2.5 and found["rest_sec"] == 33.0
    half = mpq.forecast(model, measure_fraction=0.5, **given)
    assert half["kernels"]["to_measure"] == -(-kernels["to_measure"] // 2)

    arguments = ["optimize", str(model), "--dry-run", "--precisions", "w8a8", "--db", str(tmp_path / "latency.db")]
    cli.main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out) == found
    cli.main(arguments)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"0 known, {kernels['to_measure']} to be measured" in printed and "about 33 s, as last time" in printed


def test_without_a_folder_only_a_dry_run(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["optimize", str(model)])
    assert caught.value.code == 2 and "--out" in capsys.readouterr().err
