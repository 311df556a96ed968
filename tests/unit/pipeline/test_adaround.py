"""`--rounding adaround` from the command line's side: built, kept, and refused in one line where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.errors import MissingDependencyError
from tvm_mpq.numerics.saved_plan import load_plan
from tvm_mpq.pipeline import build_network
from tvm_mpq.pipeline.options import Options


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = OnnxNet({"image": (1, 3, 8, 8)})
    y = net.relu(net.conv("image", 3, 16, name="stem"))
    onnx.save(net.model(net.classifier(y, 16)), str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


def options(model: Path, said: list[str], **more: object) -> Options:
    image = np.random.default_rng(0).standard_normal((24, 3, 8, 8), dtype=np.float32)
    given = {"data": {"image": image}, "db": model.parent / "latency.db", "rounding": "adaround", **more}
    given["verify_import"] = False
    return Options(str(model), say=said.append, **given)  # type: ignore[arg-type]


def test_it_is_built_and_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    from tvm_mpq.training import reconstruction

    torch.set_num_threads(1)
    said: list[str] = []
    first = build_network(options(model, said), uniform="w4a8")
    first.save(tmp_path / "first")
    assert any("rounding learned in 1 blocks" in line for line in said)
    assert not list((tmp_path / "latency.db.codes").glob("*.pt")), "what was half done is not left behind"
    monkeypatch.setattr(reconstruction, "reconstruct", None)  # a second call would fail
    build_network(options(model, said), uniform="w4a8").save(tmp_path / "second")
    codes = [load_plan(tmp_path / folder)[1].digest for folder in ("first", "second")]
    build_network(options(model, said, rounding="gptq"), uniform="w4a8").save(tmp_path / "third")
    assert codes[0] == codes[1] != load_plan(tmp_path / "third")[1].digest


def test_without_pytorch_it_is_refused_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    asked = "rounding adaround needs PyTorch; take rounding gptq, or install it with pip"
    with pytest.raises(MissingDependencyError, match=asked):
        build_network(options(model, []), uniform="w4a8")
