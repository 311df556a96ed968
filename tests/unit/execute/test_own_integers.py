"""A file's own integers at 8 bits: our kernels compute what the file means, bit by bit where nothing is fused over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax

from mpq_testing.slowly import slow_but
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.pipeline import Options, build_network
from tvm_mpq.schema import TensorQuant

node = helper.make_node


def pair(name: str, scale: str, zero: str, to: str) -> list[onnx.NodeProto]:
    quantize = node("QuantizeLinear", [name, scale, zero], [f"{name}_q"])
    return [quantize, node("DequantizeLinear", [f"{name}_q", scale, zero], [to])]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """conv + relu, conv + silu, a linear layer; every tensor between them a byte, and silu's argument too."""
    rng = np.random.default_rng(0)
    held = {
        "xs": np.float32(0.02), "xz": np.uint8(130), "as": np.float32(0.05), "az": np.int8(-128),
        "ps": np.float32(0.06), "pz": np.uint8(90), "bs": np.float32(0.04), "bz": np.uint8(10), "none": np.int8(0),
        "one.weight": rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8),
        "one.s": np.float32(rng.uniform(0.002, 0.02, 8)),
        "two.weight": rng.integers(-127, 128, (8, 8, 1, 1)).astype(np.int8), "two.s": np.float32(0.004),
        "fc.weight": rng.integers(-127, 128, (8, 5)).astype(np.int8), "fc.s": np.float32(rng.uniform(0.002, 0.02, 5)),
        "bias": np.float32(rng.integers(-300, 300, 8)) * np.float32(0.0001), "eight": np.array([1, -1], np.int64),
    }  # fmt: skip
    held |= {f"{n}.z": np.zeros_like(held[f"{n}.s"], np.int8) for n in ("one", "two", "fc")}
    weights = [
        node("DequantizeLinear", [f"{n}.weight", f"{n}.s", f"{n}.z"], [f"{n}.real"], axis=axis)
        for n, axis in (("one", 0), ("two", 0), ("fc", 1))
    ]
    nodes = [
        *weights,
        *pair("x", "xs", "xz", "xd"),
        node("Conv", ["xd", "one.real"], ["a0"], name="one", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["a0"], ["a"]),
        *pair("a", "as", "az", "ad"),
        node("Conv", ["ad", "two.real", "bias"], ["p"], name="two"),
        *pair("p", "ps", "pz", "pd"),
        node("Sigmoid", ["pd"], ["gate"]),
        node("Mul", ["pd", "gate"], ["b"]),
        *pair("b", "bs", "bz", "bd"),
        node("MaxPool", ["bd"], ["m"], kernel_shape=[4, 4]),
        node("Reshape", ["m", "eight"], ["f"]),
        node("MatMul", ["f", "fc.real"], ["y"], name="fc"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 3, 8, 8)), ("y", (1, 5))))
    graph = helper.make_graph(nodes, "qdq", [x], [y], [numpy_helper.from_array(v, n) for n, v in held.items()])
    path = tmp_path_factory.mktemp("qdq") / "qdq.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    return path


def test_what_is_taken(model: Path) -> None:
    prepared = prepare(model)
    assert {name for name, _ in prepared.own.codes} == {"one", "two", "fc"}
    ranges = prepared.own.ranges
    assert ranges["x"] == TensorQuant(8, float(np.float32(0.02)), 130)
    assert ranges["one"] == TensorQuant(8, float(np.float32(0.05)), 0)
    assert ranges["two:pre"] == TensorQuant(8, float(np.float32(0.06)), 90)
    assert ranges["two"] == TensorQuant(8, float(np.float32(0.04)), 10)
    assert "weights of 3 of 3 operators" in prepared.loaded.notes[-1]
    assert "saturation" in prepared.loaded.notes[-2]


def run(folder: Path, x: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def test_kernels_compute_what_the_file_says_and_requantize_does_not(model: Path, tmp_path: Path) -> None:
    """Without data, too: nothing has to be found. One step of the linear layer's input moves `y` by up to 0.1."""
    reference = ReferenceEvaluator(str(model))
    for options in ({}, {"requantize": True}):
        build_network(Options(model, db=tmp_path / "db", verify_import=False, **options), uniform="w8a8").save(
            tmp_path / f"{len(options)}"
        )
    rng = np.random.default_rng(1)
    errors = {"0": 0.0, "1": 0.0}
    for _ in range(8):
        x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
        (wanted,) = reference.run(None, {"x": x})
        for name in errors:
            errors[name] = max(errors[name], float(np.abs(run(tmp_path / name, x) - wanted).max()))
    assert errors["0"] < 1e-4 < 0.01 < errors["1"], errors


def test_a_folded_batch_norm_leaves_no_integers(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(model))
    conv = next(n for n in proto.graph.node if n.name == "one")
    conv.output[0] = "raw"
    scale = numpy_helper.from_array(np.linspace(0.5, 1.5, 8).astype(np.float32).reshape(8, 1, 1), "factor")
    proto.graph.initializer.append(scale)
    place = list(proto.graph.node).index(conv) + 1
    proto.graph.node.insert(place, node("Mul", ["raw", "factor"], ["a0"]))
    onnx.save(proto, str(tmp_path / "folded.onnx"))
    prepared = prepare(tmp_path / "folded.onnx")
    assert {name for name, _ in prepared.own.codes} == {"two", "fc"} and "one" in prepared.own.ranges


def test_a_channel_whose_bias_is_too_large_for_its_scale_gets_a_larger_one(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(model))
    held = {t.name: t for t in proto.graph.initializer}
    scales = numpy_helper.to_array(held["one.s"]).copy()
    scales[3] = 1e-12
    held["one.s"].CopyFrom(numpy_helper.from_array(scales, "one.s"))
    next(n for n in proto.graph.node if n.name == "one").input.append("bias")
    onnx.save(proto, str(tmp_path / "dead.onnx"))
    weight = prepare(tmp_path / "dead.onnx").own.codes["one", 8]
    assert weight.scales[3] > 1e-12 and not weight.codes[3].any() and weight.codes[2].any()
    build_network(Options(tmp_path / "dead.onnx", db=tmp_path / "db", verify_import=False), uniform="w8a8")


@pytest.mark.parametrize("dtype", slow_but([np.uint8, np.int8], np.int8))
def test_a_scale_that_went_into_weights_is_no_range_of_the_integers_before_it(dtype: type, tmp_path: Path) -> None:
    """Integers come in, and what they stand for is arithmetic that a pass folds into the convolution."""
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    held = {"s": np.float32(0.02), "z": dtype(limits.min + 117), "w": rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32)}
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["r"]), node("Conv", ["r", "w"], ["y"], name="conv")]
    x = rng.integers(limits.min, limits.max + 1, (1, 3, 8, 8)).astype(dtype)
    element = TensorProto.UINT8 if dtype is np.uint8 else TensorProto.INT8
    given = helper.make_tensor_value_info("x", element, x.shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 6, 6))
    graph = helper.make_graph(nodes, "net", [given], [result], [numpy_helper.from_array(v, n) for n, v in held.items()])
    path = tmp_path / "integers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    assert set(prepare(path).own.ranges.values()) == {TensorQuant(8, 1.0, -limits.min)}
    build_network(Options(path, db=tmp_path / "db", verify_import=False), uniform="w8a8").save(tmp_path / "built")
    (want,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    assert np.abs(run(tmp_path / "built", x) - want).max() < 0.02 * np.abs(want).max()


def test_a_range_behind_a_change_of_shape_is_that_of_the_operator(tmp_path: Path) -> None:
    """Also of an operator that stays in floats."""
    held = {"s": np.float32(1 / 255), "z": np.uint8(0), "shape": np.array([2, 6], np.int64)}
    held["w"] = np.random.default_rng(0).normal(0, 1, (6, 4)).astype(np.float32)
    nodes = [
        node("Softmax", ["x"], ["soft"], name="soft", axis=-1),
        node("Reshape", ["soft", "shape"], ["flat"]),
        *pair("flat", "s", "z", "read"),
        node("MatMul", ["read", "w"], ["y"], name="fc"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (2, 2, 3)), ("y", (2, 4))))
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(v, n) for n, v in held.items()])
    path = tmp_path / "moved.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    prepared = prepare(path, batch=None)
    (read,) = (n.inputs[0] for n in prepared.graph.nodes if n.name == "fc")
    quant = TensorQuant(8, float(np.float32(1 / 255)), 0)
    assert prepared.own.ranges.get(read) == prepared.own.ranges.get(prepared.graph.quant_root(read)) == quant
