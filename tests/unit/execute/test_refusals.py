"""What nobody foresaw, on the way from a model to its library, is a refusal of one line that keeps its cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tvm import relax

from tvm_mpq.errors import MPQError, UnsupportedModelError
from tvm_mpq.execute import network, prepare
from tvm_mpq.frontends import load_model, loading, onnx_walk
from tvm_mpq.frontends.checks import refusing
from tvm_mpq.passes.normalize import fold_affine, fuse_operators
from tvm_mpq.schema import Plan

node = helper.make_node


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [node("MatMul", ["x", "fc.weight"], ["a"]), node("Relu", ["a"], ["y"], name="act")],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 4))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "fc.weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def stumble(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise ValueError("fc")


def test_what_was_raised_is_told_in_one_line_and_kept() -> None:
    with (
        pytest.raises(UnsupportedModelError, match=r"^net cannot be read: ValueError: fc$") as caught,
        refusing("net cannot be read"),
    ):
        stumble()
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(UnsupportedModelError, match=r"^net: ValueError$"), refusing("net"):
        raise ValueError
    with pytest.raises(UnsupportedModelError, match=r"^net: RuntimeError: first$"), refusing("net"):
        raise RuntimeError("first\nsecond")


@pytest.mark.parametrize("error", [MPQError("said already"), MemoryError()])
def test_errors_with_a_meaning_of_their_own_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, refusing("net"):
        raise error
    assert caught.value is error


def prepared(model: Path) -> prepare.Prepared:
    return prepare.prepare(model, target="x86-64")


def built(model: Path) -> network.Built:
    made = prepared(model)
    return network.build(made, Plan("x86-64", made.tvm_target_attrs, {"fc": "fp32"}, {}), model.with_suffix(".so"))


@pytest.mark.parametrize(
    ("place", "name", "work", "text"),
    [
        (onnx_walk, "evaluated", load_model, r"m.onnx: operator MatMul \(node 'fc'\) cannot be read"),
        (loading, "rename", load_model, "m.onnx cannot be imported"),
        (fold_affine, "_Rewriter", prepared, "m cannot be brought into normal form"),
        (fuse_operators, "build_function", prepared, "relu '.*' cannot be brought into normal form"),
        (prepare, "read_graph", prepared, "m cannot be brought into normal form"),
        (network, "compile_network", built, "m cannot be compiled"),
    ],
)
def test_each_part_of_the_way_refuses(
    place: Any, name: str, work: Callable[[Path], Any], text: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, stumble)
    with pytest.raises(UnsupportedModelError, match=rf"^{text}: ValueError: fc$") as caught:
        work(model)
    copied = place is fuse_operators  # by TVM, as a refusal leaves a pass; its cause is then named in the text alone
    assert copied or isinstance(caught.value.__cause__, ValueError)


def test_a_model_without_a_file_is_called_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 2), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(out)
    monkeypatch.setattr(loading, "rename", stumble)
    with pytest.raises(UnsupportedModelError, match=r"^the IRModule cannot be imported: ValueError"):
        load_model(builder.get())
