"""Commands verify what they import, say how, and take a wrong import only when told to."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tvm import relax

from mpq_testing.networks import residual_network
from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.errors import VerificationError
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.frontends import onnx_operators
from tvm_mpq.pipeline import build_network
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.verification import verified


@pytest.fixture
def options(tmp_path: Path) -> dict[str, object]:
    net = OnnxNet({"x": (1, 8)})
    onnx.save(net.model(net.op("Softsign", net.linear("x", 8, 4))), str(tmp_path / "net.onnx"))
    return {"model": tmp_path / "net.onnx", "db": tmp_path / "db.sqlite"}


def test_a_build_says_how_its_import_was_verified(options: dict[str, object]) -> None:
    said: list[str] = []
    check = build_network(Options(**options, say=said.append), uniform="fp32").report["import_check"]
    assert check["skipped"] == "" and check["error"] < 1e-5 and "ONNX" in check["evaluator"]
    assert any(line.startswith("import verified against ONNX") for line in said)


def test_a_wrong_import_is_built_only_when_told_to(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_operators.CONVERTERS, "Softsign", lambda inputs, attrs: relax.op.tanh(inputs[0]))
    with pytest.raises(VerificationError, match="--no-verify-import"):
        build_network(Options(**options), uniform="fp32")
    report = build_network(Options(**options, verify_import=False), uniform="fp32").report
    assert report["import_check"]["skipped"] == "--no-verify-import"


def test_a_network_for_another_cpu_is_verified_on_this_one(options: dict[str, object]) -> None:
    prepared = prepare(options["model"], target="cortex-a72")
    data = load_dataset(None, prepared.inputs)
    assert verified(prepared, Options(**options), None, lambda: data).skipped == ""


def test_a_relax_module_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    network = prepare(residual_network())
    data = load_dataset(None, network.inputs)
    assert "no independent evaluator" in verified(network, Options(residual_network()), None, lambda: data).skipped
