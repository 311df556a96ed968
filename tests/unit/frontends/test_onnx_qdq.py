"""Networks quantized elsewhere are read as the float networks they stand for, with their scales kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import Loaded, load_model
from tvm_mpq.schema import TensorQuant

node = helper.make_node
SaveOnnx = Callable[..., Path]
Run = Callable[..., list[np.ndarray]]

X_SCALE, Y_SCALE = np.float32(0.05), np.float32(0.25)
W_SCALES = np.float32([0.01, 0.02, 0.03, 0.04])


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "conv.weight_quantized": rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "ws": W_SCALES,
        "wz": np.zeros(4, np.int8),
        "bias": rng.integers(-500, 500, 4).astype(np.int32),
        "bs": X_SCALE * W_SCALES,
        "bz": np.zeros(4, np.int32),
        "xs": X_SCALE,
        "xz": np.uint8(120),
        "ys": Y_SCALE,
        "yz": np.uint8(100),
    }


INPUT = {"x": ((1, 2, 5, 5), "float32")}
QDQ = [
    node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
    node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
    node("DequantizeLinear", ["conv.weight_quantized", "ws", "wz"], ["wd"], axis=0),
    node("DequantizeLinear", ["bias", "bs", "bz"], ["bd"], axis=0),
    node("Conv", ["xd", "wd", "bd"], ["c"], name="a"),
    node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
    node("MaxPool", ["cq"], ["pq"], kernel_shape=[2, 2], name="pool"),
    node("DequantizeLinear", ["pq", "ys", "yz"], ["y"]),
]
QOPERATOR = [
    QDQ[0],
    node("QLinearConv", ["xq", "xs", "xz", "conv.weight_quantized", "ws", "wz", "ys", "yz", "bias"], ["cq"], name="a"),
    *QDQ[6:],
]


def numbers(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The float network: nothing but the weights is rounded."""
    w = weights["conv.weight_quantized"].astype(np.float64) * W_SCALES.astype(np.float64)[:, None, None, None]
    y = np.zeros((1, 4, 3, 3))
    for i, j in np.ndindex(3, 3):
        y[0, :, i, j] = (w * x[0, :, i : i + 3, j : j + 3]).sum(axis=(1, 2, 3))
    y += (weights["bias"] * weights["bs"].astype(np.float64))[:, None, None]
    return np.maximum.reduce([y[..., i : i + 2, j : j + 2] for i, j in np.ndindex(2, 2)])


@pytest.mark.parametrize("nodes", [QDQ, QOPERATOR], ids=["qdq", "qoperator"])
def test_both_forms_are_the_float_network_with_the_files_scales(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], save_onnx: SaveOnnx, run: Run, operators: Any,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    loaded = load_model(save_onnx(nodes, INPUT, weights))
    assert [o for o in operators(loaded).values() if "conv" in o or "pool" in o] == [
        "relax.nn.conv2d",
        "relax.nn.max_pool2d",
    ]
    assert not any(o.startswith(("relax.quantize", "relax.round", "relax.astype")) for o in operators(loaded).values())
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], numbers(weights, x), rtol=1e-5, atol=1e-5)
    assert loaded.stored is not None
    quants = {TensorQuant(8, float(X_SCALE), 120), TensorQuant(8, float(Y_SCALE), 100)}
    assert set(loaded.stored.tensors.values()) == quants and loaded.stored.tensors["x"].zero_point == 120
    assert list(loaded.stored.weights.values()) == [tuple(map(float, W_SCALES))]
    assert "quantized elsewhere" in loaded.notes[-1] and "conv" in operators(loaded)


def test_an_activation_that_the_range_stands_for_is_put_back(
    weights: dict[str, np.ndarray], save_onnx: SaveOnnx, run: Run, rng: np.random.Generator
) -> None:
    """Integers that end at zero cut what is negative, and what is above 255 steps."""
    loaded = load_model(save_onnx(QDQ, INPUT, {**weights, "ys": np.float32(0.01), "yz": np.uint8(0)}))
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32) * 9
    np.testing.assert_allclose(run(loaded, x)[0], np.clip(numbers(weights, x), 0, 2.55), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_signed_activations_and_shifted_weights(
    dtype: type, weights: dict[str, np.ndarray], save_onnx: SaveOnnx, run: Run, rng: np.random.Generator
) -> None:
    """int8 activations become ours by 128; weights around 128 are signed, around anything else not our integers."""
    given = {**weights, "xz": np.int8(-8), "yz": np.int8(-28)}
    shifted = weights["conv.weight_quantized"].astype(np.int32) + (128 if dtype is np.uint8 else 0)
    given |= {"conv.weight_quantized": shifted.astype(dtype), "wz": np.full(4, 128 if dtype is np.uint8 else 0, dtype)}
    loaded = load_model(save_onnx(QDQ, INPUT, given))
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], numbers(weights, x), rtol=1e-5, atol=1e-5)
    assert loaded.stored is not None and loaded.stored.tensors["x"] == TensorQuant(8, float(X_SCALE), 120)
    assert len(loaded.stored.weights) == 1
    odd = load_model(save_onnx(QDQ, INPUT, given | {"wz": np.full(4, 7, dtype)}))
    assert odd.stored is not None and not odd.stored.weights


def test_scales_chosen_at_run_time_are_left_out(save_onnx: SaveOnnx, run: Run, rng: np.random.Generator) -> None:
    weight = rng.integers(0, 256, (6, 3)).astype(np.uint8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "s", "z"]),
        node("MatMulInteger", ["xq", "fc.weight_quantized", "z", "wz"], ["sums"], name="fc"),
        node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["s", "ws"], ["scales"]),
        node("Mul", ["real", "scales"], ["y"]),
    ]
    given = {"fc.weight_quantized": weight, "wz": np.uint8(99), "ws": np.float32(0.02)}
    loaded = load_model(save_onnx(nodes, {"x": ((2, 6), "float32")}, given))
    x = rng.standard_normal((2, 6)).astype(np.float32)
    wanted = x @ ((weight.astype(np.float32) - 99) * 0.02)
    np.testing.assert_allclose(run(loaded, x)[0], wanted, rtol=1e-5, atol=1e-5)
    nodes[2] = node("Neg", ["sums"], ["real"])
    with pytest.raises(UnsupportedModelError, match=r"Neg \(node 'real'\) reads sums of integers"):
        load_model(save_onnx(nodes, {"x": ((2, 6), "float32")}, given))


def test_integers_at_the_ends_stay_integers(save_onnx: SaveOnnx, run: Run, tmp_path: Path) -> None:
    """uint8 in, int8 out; rounded half to even and cut."""
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], ["real"]),
        node("Neg", ["real"], ["minus"]),
        node("QuantizeLinear", ["minus", "s2", "z2"], ["y"]),
    ]
    weights = {"s": np.float32(0.5), "z": np.uint8(128), "s2": np.float32(1), "z2": np.int8(0)}
    path = save_onnx(nodes, {"x": ((1, 6), "float32")}, weights)
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, str(path))
    (y,) = run(load_model(path), np.array([[0, 127, 129, 131, 133, 255]], np.uint8))
    assert y.dtype == np.int8 and y.tolist() == [[64, 0, 0, -2, -2, -64]]


def test_the_operators_of_onnx_runtime(save_onnx: SaveOnnx, run: Run, rng: np.random.Generator) -> None:
    """Added, averaged, joined: each from (integers, scale, zero)."""
    a, b, out = ["aq", "s", "z"], ["bq", "t", "z"], ["s", "z"]
    nodes = [
        node("QuantizeLinear", ["a", "s", "z"], ["aq"]),
        node("QuantizeLinear", ["b", "t", "z"], ["bq"]),
        node("QLinearAdd", [*a, *b, *out], ["sum"], domain="com.microsoft"),
        node("QLinearMul", ["sum", *out, *b, *out], ["product"], domain="com.microsoft"),
        node("QLinearConcat", [*out, *a, "product", *out], ["joined"], domain="com.microsoft", axis=1),
        node("QLinearGlobalAveragePool", ["joined", *out, *out], ["mean"], domain="com.microsoft"),
        node("DequantizeLinear", ["mean", *out], ["y"]),
    ]
    shape = (1, 2, 3, 3)
    given = {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.uint8(128)}
    path = save_onnx(nodes, {"a": (shape, "float32"), "b": (shape, "float32")}, given)
    model = onnx.load(str(path))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(path))
    x, y = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    wanted = np.concatenate([x, (x + y) * y], axis=1).mean(axis=(2, 3), keepdims=True)
    loaded: Loaded = load_model(path)
    np.testing.assert_allclose(run(loaded, x, y)[0], wanted, rtol=1e-5, atol=1e-6)


def test_scales_that_the_network_computes_are_refused(save_onnx: SaveOnnx) -> None:
    nodes = [node("QuantizeLinear", ["x", "s", ""], ["q"], name="q"), node("DequantizeLinear", ["q", "s", ""], ["y"])]
    with pytest.raises(UnsupportedModelError, match=r"scales of QuantizeLinear \(node 'q'\) are computed"):
        load_model(save_onnx(nodes, {"x": ((1, 4), "float32"), "s": ((), "float32")}))
