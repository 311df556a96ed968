"""Options are checked at once; a result is written whole or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import tvm_mpq as mpq
from tvm_mpq.errors import InvalidValueError, MissingDependencyError, OutputError
from tvm_mpq.kernels import OFFERED
from tvm_mpq.pipeline.compare import available_methods
from tvm_mpq.pipeline.optimize import optimize
from tvm_mpq.pipeline.options import Options, check_output, to_json
from tvm_mpq.pipeline.result import Result
from tvm_mpq.schema import Budget, Plan, Precision
from tvm_mpq.select.methods.table import METHODS


@pytest.mark.parametrize(
    "name", ["batch", "threads", "workers", "calibration_samples", "sensitivity_samples", "check_samples"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_counts(name: str, value: int) -> None:
    with pytest.raises(InvalidValueError, match=rf"{name} must be 1 or more \(got {value}\)"):
        Options("model.onnx", **{name: value})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_time_limit(value: float) -> None:
    with pytest.raises(InvalidValueError, match="solver_time_limit_sec must be above 0"):
        Options("model.onnx", solver_time_limit_sec=value)


def test_an_energy_budget_is_refused_where_the_source_knows_no_energies() -> None:
    text = r"energy_mj .*'measured' gives no energies \(.*mpic.*latency_ratio, .*size_mb or max_drop.*\(got 3 mJ\)"
    with pytest.raises(InvalidValueError, match=text):
        Options("model.onnx", budget=Budget(energy_mj=3.0))
    with pytest.raises(InvalidValueError, match=text):  # before the model is looked at
        mpq.optimize("nowhere.onnx", budget=Budget(latency_ratio=0.5, energy_mj=3.0))


def test_a_simulated_source() -> None:
    """It has the usual precisions of such machines and energies, and nothing about it can be measured."""
    options = Options("model.onnx", latency_source="mpic", budget=Budget(energy_mj=3.0))
    assert {str(p) for p in options.offered} == {f"w{w}a{a}" for w in (2, 4, 8) for a in (2, 4, 8)}
    options.require_axis("energy")
    with pytest.raises(InvalidValueError, match=r"axis energy cannot be taken: .*'measured' gives no energies.*mpic"):
        Options("model.onnx").require_axis("energy")
    with pytest.raises(InvalidValueError, match=r"latency_source must be one of measured, mpic.*\(got 'fpga'\)"):
        Options("model.onnx", latency_source="fpga")
    for wrong in ({"rpc": "host:1"}, {"measure_fraction": 0.5}):
        with pytest.raises(InvalidValueError, match=f"'mpic' is simulated.* leave out {next(iter(wrong))}"):
            Options("model.onnx", latency_source="mpic", **wrong)
    with pytest.raises(InvalidValueError, match=r"optimize builds.*'mpic' prices plans.*use search, whose --plans"):
        optimize(Options("nowhere.onnx", latency_source="mpic"))  # before the model is looked at


def test_observer() -> None:
    with pytest.raises(InvalidValueError, match="'median'"):
        Options("model.onnx", observer="median")


def test_judge() -> None:
    with pytest.raises(InvalidValueError, match=r"judge must be one of calib, eval \(got 'test'\)"):
        Options("model.onnx", judge="test")
    with pytest.raises(InvalidValueError, match=r"judge 'eval' needs evaluation data.*--eval"):
        Options("model.onnx", judge="eval")
    assert Options("model.onnx", judge="eval", eval_data="e.npz").judge == "eval"


def test_precisions() -> None:
    assert Options("model.onnx").offered == OFFERED
    assert Options("model.onnx", precisions=["w4a8", "w2a5"]).offered == (Precision(4, 8), Precision(2, 5))
    with pytest.raises(InvalidValueError, match=r"a precision is fp32, bf16, fp16 or w<bits>a<bits>.*'int4'"):
        Options("model.onnx", precisions=["w4a8", "int4"])


def test_methods() -> None:
    with pytest.raises(InvalidValueError, match=r"method must be one of ilp, ohq, .* \(got 'best'\)"):
        Options("model.onnx", method="best")
    with pytest.raises(InvalidValueError, match=r"evaluations must be 1 or more \(got 0\)"):
        Options("model.onnx", evaluations=0)
    for name in ("walks", "updates"):
        with pytest.raises(InvalidValueError, match=rf"{name} must be 1 or more \(got 0\)"):
            Options("model.onnx", **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="seconds of a search must be above 0"):
        mpq.search("nowhere.onnx", method="amed", method_seconds=0.0)


def test_a_method_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at once where it is named, and left out of `all`."""
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "tvm_mpq.agents.ddpg", raising=False)
    with pytest.raises(MissingDependencyError, match=r"^method haq needs stable-baselines3.*'tvm-mpq\[rl\]'$"):
        mpq.search("nowhere.onnx", method="haq")
    heard: list[str] = []
    found = available_methods(Options("model.onnx", say=heard.append))
    assert found == tuple(m for m in METHODS if m != "haq")
    assert [text[:28] for text in heard] == ["left out: method haq needs s"]


def test_messages_need_no_listener() -> None:
    heard: list[str] = []
    Options("model.onnx").tell("nobody hears this")
    Options("model.onnx", say=heard.append).tell("hello")
    assert heard == ["hello"]


def test_save_copies_everything_and_names_it(tmp_path: Path) -> None:
    work = TemporaryDirectory(dir=tmp_path)
    built = Path(work.name)
    (built / "model.so").write_bytes(b"code")
    (built / "plan.json").write_text("{}")
    report = Result(Plan("local", {}, {}, {}), {"model": "m"}, work).save(tmp_path / "deep" / "out")
    assert report["model"] == "m"
    assert report["artifacts"] == {n: str(tmp_path / "deep" / "out" / n) for n in ("model.so", "plan.json")}
    assert (tmp_path / "deep" / "out" / "model.so").read_bytes() == b"code"


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to output folder .*choose another with --out"):
        check_output(tmp_path / below)


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    assert list(check_output(tmp_path / "out").iterdir()) == []


def test_json_refuses_what_json_has_not() -> None:
    assert json.loads(to_json({"b": 1.5, "a": [1]})) == {"a": [1], "b": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"x": float("nan")})


@pytest.mark.parametrize("value", [0.0, -0.3, 1.01, float("nan")])
def test_measure_fraction(value: float) -> None:
    with pytest.raises(InvalidValueError, match="measure_fraction must be above 0 and at most 1"):
        Options("model.onnx", measure_fraction=value)


@pytest.mark.parametrize("given", [{"rounding": "adaround"}, {"finetune_epochs": 3}])
def test_what_needs_pytorch_is_refused_at_once_without_it(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"needs PyTorch; .*pip install 'tvm-mpq\[torch\]'"):
        Options("model.onnx", **given)
