"""Operators of ONNX Runtime's own domain, against NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model

MICROSOFT = "com.microsoft"
rng = np.random.default_rng(31)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def model_of(node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], weights: Mapping[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(n) for n in node.output if n],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def results(
    node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], weights: Mapping[str, Any], folder: Path, run: Any
) -> list[np.ndarray]:
    onnx.save(model_of(node, inputs, weights), str(folder / "net.onnx"))
    found: list[np.ndarray] = run(load_model(folder / "net.onnx"), *inputs.values())
    return found


def own(op_type: str, inputs: list[str], outputs: tuple[str, ...] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, list(outputs), domain=MICROSOFT, **attributes)


X, SKIP, SCALE, SHIFT = normal(2, 3, 4), normal(2, 3, 4), normal(4), normal(4)
IMAGE, KERNEL, BIAS, SUMMAND = normal(1, 4, 6, 6), normal(3, 4, 3, 3), normal(3), normal(1, 3, 6, 6)
ROWS, MATRIX = normal(2, 4), normal(3, 4)


def convolved() -> np.ndarray:
    plain = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)
    (found,) = ReferenceEvaluator(model_of(plain, {"x": IMAGE}, {"w": KERNEL, "b": BIAS})).run(None, {"x": IMAGE})
    return np.asarray(found)


def leaky(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x < 0, alpha * x, x)


CASES = {  # case -> (node, inputs, weights, expected)
    "convolution_summand_activation": (
        own("FusedConv", ["x", "w", "b", "z"], pads=[1] * 4, activation="LeakyRelu", activation_params=[0.2]),
        {"x": IMAGE},
        {"w": KERNEL, "b": BIAS, "z": SUMMAND},
        lambda: leaky(convolved() + SUMMAND, 0.2),
    ),
    "convolution_clipped": (
        own("FusedConv", ["x", "w", "b"], pads=[1] * 4, activation="Clip", activation_params=[-0.5, 0.25]),
        {"x": IMAGE},
        {"w": KERNEL, "b": BIAS},
        lambda: convolved().clip(-0.5, 0.25),
    ),
    "product_activation": (
        own("FusedGemm", ["x", "w", "b"], transB=1, activation="LeakyRelu", activation_alpha=0.3),
        {"x": ROWS},
        {"w": MATRIX, "b": BIAS},
        lambda: leaky(ROWS @ MATRIX.T + BIAS, 0.3),
    ),
    "product_of_turned_matrices": (
        own("FusedMatMul", ["x", "w"], transA=1, transB=1, alpha=0.5),
        {"x": X},
        {"w": normal(5, 3)},
        lambda: None,
    ),
    "quick_gelu": (own("QuickGelu", ["x"], alpha=1.5), {"x": X}, {}, lambda: X / (1 + np.exp(-1.5 * X))),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str, tmp_path: Path, run: Any) -> None:
    node, inputs, weights, expected = CASES[case]
    (found,) = results(node, inputs, weights, tmp_path, run)
    wanted = expected()
    if wanted is None:
        wanted = 0.5 * X.transpose(0, 2, 1) @ weights["w"].T
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_activation_that_nobody_knows_is_refused(tmp_path: Path, run: Any) -> None:
    node = own("FusedConv", ["x", "w", "b"], activation="Sine")
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: operator FusedConv .* activation [^\n]*Sine\)$"):
        results(node, {"x": IMAGE}, {"w": KERNEL, "b": BIAS}, tmp_path, run)


@pytest.mark.parametrize("shift", ["b", ""])
def test_a_sum_that_is_normalised_and_asked_for(shift: str, tmp_path: Path, run: Any) -> None:
    node = own("SkipLayerNormalization", ["x", "s", "g", shift], ("y", "", "", "sum"), epsilon=0.01)
    weights = {"g": SCALE} | ({"b": SHIFT} if shift else {})
    found, total = results(node, {"x": X, "s": SKIP}, weights, tmp_path, run)
    whole = X + SKIP
    centred = whole - whole.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(whole.var(-1, keepdims=True) + 0.01) * SCALE + (SHIFT if shift else 0)
    np.testing.assert_allclose(total, whole, rtol=1e-6)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_lstm_of_8_bit_weights_is_that_of_the_numbers_they_stand_for(tmp_path: Path, run: Any) -> None:
    """Its gates come last in the file, and each direction has a scale."""
    codes = [rng.integers(0, 256, s).astype(np.uint8) for s in ((2, 3, 20), (2, 5, 20))]
    scales, zeros, x = np.float32([0.004, 0.006]), np.uint8([120, 130]), normal(6, 1, 3)
    weights = {"w": codes[0], "r": codes[1], "b": normal(2, 40), "s": scales, "z": zeros}
    outputs = ("y", "h", "c")
    names = ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"]
    node = own("DynamicQuantizeLSTM", names, outputs, hidden_size=5, direction="bidirectional")
    found = results(node, {"x": x}, weights, tmp_path, run)
    reals = [((c - zeros[:, None, None].astype(np.float32)) * scales[:, None, None]).transpose(0, 2, 1) for c in codes]
    plain = helper.make_node("LSTM", names[:4], list(outputs), hidden_size=5, direction="bidirectional")
    held = {"w": np.float32(reals[0]), "r": np.float32(reals[1]), "b": weights["b"]}
    onnx.save(model_of(plain, {"x": x}, held), str(tmp_path / "plain.onnx"))
    for result, wanted in zip(found, run(load_model(tmp_path / "plain.onnx"), x), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [True, False])
def test_weights_in_blocks(bits: int, zeros: bool, tmp_path: Path, run: Any) -> None:
    """Three rows of 40 numbers in blocks of 16, the last of which ends beyond them."""
    numbers = rng.integers(0, 2**bits, (3, 3, 16))
    middles = rng.integers(0, 2**bits, (3, 3)) if zeros else np.full((3, 3), 2 ** (bits - 1))
    scales, x = rng.uniform(0.01, 0.1, (3, 3)).astype(np.float32), normal(2, 40)
    weights = {"w": packed(numbers, bits), "s": scales.reshape(-1)}
    weights |= {"z": packed(middles, bits).reshape(-1)} if zeros else {}
    node = own("MatMulNBits", ["x", "w", "s", *(["z"] if zeros else [])], K=40, N=3, bits=bits, block_size=16)
    (found,) = results(node, {"x": x}, weights, tmp_path, run)
    reals = ((numbers - middles[..., None]) * scales[..., None]).reshape(3, 48)[:, :40]
    np.testing.assert_allclose(found, x @ np.float32(reals.T), rtol=1e-4, atol=1e-4)


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The low half of each byte first; an odd last one stands alone."""
    if bits == 8:
        return numbers.astype(np.uint8)
    odd = numbers.shape[-1] % 2
    even = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, odd)])
    return (even[..., 0::2] | even[..., 1::2] << 4).astype(np.uint8)
