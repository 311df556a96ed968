"""What counts as the same, and that a wrong import is refused with the operator that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvm_mpq.errors import NoReferenceError, UnsupportedModelError, VerificationError
from tvm_mpq.execute import import_check
from tvm_mpq.execute.host_runtime import HostRuntime
from tvm_mpq.execute.import_check import check_import, fault, relative_difference
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.execute.prepare import Prepared, prepare
from tvm_mpq.frontends import onnx_operators
from tvm_mpq.frontends.onnx_reference import OnnxReference
from tvm_mpq.tuning.compile.kernel_store import KernelStore

rng = np.random.default_rng(3)
X = rng.standard_normal((1, 3, 6, 6), dtype=np.float32)
node = helper.make_node


def test_floats_are_the_same_within_a_share_of_their_spread() -> None:
    values = rng.standard_normal(1000).astype(np.float32)
    assert fault(values * np.float32(1 + 1e-5), values, 0) == ""
    assert relative_difference(values + np.float32(1e-4), values) == pytest.approx(1e-4, rel=0.1)
    wrong = values.copy()
    wrong[7] += 0.01
    assert fault(wrong, values, 0) == "1 of 1000 values differ"
    assert fault(1000 + values, 1000 + values * np.float32(1.001), 0) == ""  # float32 has no more digits there
    assert fault(values[:10], values, 0).startswith("the shape is (10,)")


def test_nan_and_infinity_are_the_same_in_their_places_only() -> None:
    values = np.float32([1, np.nan, np.inf, -np.inf])
    assert fault(values.copy(), values, 0) == ""
    for wrong in (np.float32([1, 2, np.inf, -np.inf]), np.float32([1, np.nan, -np.inf, -np.inf])):
        assert fault(wrong, values, 0) == "1 of 4 values differ"


def test_integers_are_the_same_exactly_but_for_few_near_a_decision() -> None:
    values = np.arange(5000)
    wrong = values.copy()
    wrong[:4] += 1
    assert fault(wrong, values, 0) == "4 of 5000 values differ"
    assert fault(wrong, values, 1e-3) == ""
    assert fault(wrong[:100], values[:100], 1e-3) == "4 of 100 values differ"
    assert "instead of" in fault(values.astype(np.float32), values, 1e-3)


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    def prepared() -> Prepared:
        nodes = [
            node("Conv", ["x", "w"], ["a"], pads=[1] * 4, name="/first/Conv"),
            node("Softsign", ["a"], ["b"], name="/act/Softsign"),
            node("Conv", ["b", "w"], ["y"], pads=[1] * 4, name="/second/Conv"),
        ]
        weights = [numpy_helper.from_array(rng.standard_normal((3, 3, 3, 3), dtype=np.float32), "w")]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, X.shape) for n in "xy"]
        graph = helper.make_graph(nodes, "graph", values[:1], values[1:], weights)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
        )
        return prepare(tmp_path / "net.onnx")

    return prepared


def check(prepared: Prepared, folder: Path) -> Any:
    store = KernelStore(folder / "kernels", prepared.tvm_target_attrs)
    runtime = HostRuntime(store, prepared.graph, prepared.tvm_target(), prepared.features)
    return check_import(prepared, Interpreter(prepared.graph, runtime), {"x": X})


def test_a_right_import_is_verified(prepared: Any, tmp_path: Path) -> None:
    found = check(prepared(), tmp_path)
    assert found.skipped == "" and 0 < found.error < 1e-5 and found.seconds > 0
    assert "ONNX" in found.evaluator and found.evaluator in found.line


def test_a_wrong_import_is_refused_in_one_line_that_names_the_operator(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(onnx_operators.CONVERTERS, "Softsign", lambda inputs, attrs: relax.op.tanh(inputs[0]))
    with pytest.raises(VerificationError, match=r"^net: [^\n]*at tanh 'act\.Softsign' \d+ of 108 values[^\n]*$"):
        check(prepared(), tmp_path)


@pytest.mark.parametrize("last", ["Sigmoid", "Relu"])
def test_outputs_that_are_zeros_and_ones_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """All of them 1, or all 0, whatever the first operator computes."""
    shift = numpy_helper.from_array(np.float32(90 if last == "Sigmoid" else -90), "shift")
    nodes = [node("Softsign", ["x"], ["a"], name="act"), node("Add", ["a", "shift"], ["b"]), node(last, ["b"], ["y"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, X.shape) for n in "xy"]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [shift])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    assert check(prepare(tmp_path / "net.onnx"), tmp_path).skipped == ""
    monkeypatch.setitem(onnx_operators.CONVERTERS, "Softsign", lambda inputs, attrs: relax.op.tanh(inputs[0]))
    with pytest.raises(VerificationError, match=r"^net: [^\n]*at tanh 'act' \d+ of 108 values[^\n]*$"):
        check(prepare(tmp_path / "net.onnx"), tmp_path)


def test_what_tvm_cannot_compile_is_refused_in_one_line(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("Check failed: no\nrule")

    network = prepared()
    monkeypatch.setattr(import_check, "fp32_outputs", fails)
    monkeypatch.setattr(import_check, "finish", fails)
    with pytest.raises(UnsupportedModelError, match=r"^net: abs 'act[^\n]*cannot be compiled: Check failed: no;.*$"):
        check(network, tmp_path)


def test_without_an_answer_in_time_it_is_said_that_nothing_was_verified(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxReference, "_by_runtime", lambda *_: unavailable())
    network = prepared()
    network.loaded.reference._patience_sec = 0.0
    found = check(network, tmp_path)
    assert "does not finish within 0 s" in found.skipped and "not verified" in found.line


def unavailable() -> None:
    raise NoReferenceError("not installed")
