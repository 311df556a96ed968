"""Independent evaluators: they agree with each other, show tensors within, and refuse in words for a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_mpq.errors import NoReferenceError
from tvm_mpq.frontends import load_model
from tvm_mpq.frontends.onnx_reference import OnnxReference

X = np.random.default_rng(1).standard_normal((2, 3), dtype=np.float32)


def model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32([1, 2, 3]), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


NET = model(helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"]))


@pytest.fixture(params=["installed", "onnx"])
def reference(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OnnxReference:
    if request.param == "onnx":
        monkeypatch.setattr(OnnxReference, "_by_runtime", refuse)
    return OnnxReference(lambda: onnx.ModelProto.FromString(NET.SerializeToString()))


def refuse(*_: Any) -> None:
    raise NoReferenceError("not installed")


def test_outputs_and_tensors_within(reference: OnnxReference) -> None:
    answers = list(reference.answers({"x": X}))
    assert all("ONNX" in a.evaluator for a in answers)
    (y,) = answers[0].outputs
    np.testing.assert_array_equal(y, np.maximum(X * np.float32([1, 2, 3]), 0))
    found = reference.tensors({"x": X}, ["h", "y", "nothing"])
    assert set(found) == {"h", "y"}
    np.testing.assert_array_equal(found["h"], X * np.float32([1, 2, 3]))


def test_evaluators_answer_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    both = OnnxReference(lambda: onnx.ModelProto.FromString(NET.SerializeToString()))
    first, second = both.answers({"x": X})
    assert first.evaluator.startswith("ONNX Runtime") and second.evaluator == "ONNX's reference evaluator"
    np.testing.assert_array_equal(first.outputs[0], second.outputs[0])


def test_what_no_evaluator_runs() -> None:
    broken = OnnxReference(lambda: model(helper.make_node("NotAnOperator", ["x"], ["y"])))
    with pytest.raises(NoReferenceError, match=r"^[^\n]*reference evaluator cannot run[^\n]*$"):
        list(broken.answers({"x": X}))


def test_pytorch_runs_the_program_with_its_own_arguments(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, a: Any, *, b: Any) -> Any:
            h = torch.sin(a)
            return {"sum": h + b, "product": h * b}

    a, b = (np.random.default_rng(i).standard_normal((2, 3), dtype=np.float32) for i in range(2))
    program = torch.export.export(Net(), (torch.from_numpy(a),), {"b": torch.from_numpy(b)})
    loaded = load_model(program)
    assert loaded.reference is not None
    inputs = dict(zip(loaded.input_names, (a, b), strict=True))
    (answer,) = loaded.reference.answers(inputs)
    total, product = answer.outputs
    np.testing.assert_allclose(total, np.sin(a) + b, rtol=1e-6)
    np.testing.assert_allclose(product, np.sin(a) * b, rtol=1e-6)
    shown = loaded.reference.tensors(inputs, list(loaded.tensors.values()))
    assert any(np.allclose(value, np.sin(a)) for value in shown.values())
