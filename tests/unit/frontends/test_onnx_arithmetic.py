"""Attributes and corner cases that TVM's importer leaves out, against NumPy and ONNX's own evaluator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import NoReferenceError, UnsupportedModelError
from tvm_mpq.frontends import load_model
from tvm_mpq.frontends.onnx_resize import interpolation

node = helper.make_node
X = np.random.default_rng(2).standard_normal((1, 4, 4, 6), dtype=np.float32)
INF, NAN = np.inf, np.nan
ODD = np.float32([1, -1, INF, -INF, NAN, 0])

CASES = {  # case -> (node, input, weights, expected)
    "clip_min_above_max": (
        node("Clip", ["x", "lo", "hi"], ["y"]),
        X,
        {"lo": np.float32(2), "hi": np.float32(1)},
        np.ones_like(X),
    ),
    "isinf_positive": (node("IsInf", ["x"], ["y"], detect_negative=0), ODD, {}, ODD == INF),
    "isinf_negative": (node("IsInf", ["x"], ["y"], detect_positive=0), ODD, {}, ODD == -INF),
    "isinf_neither": (node("IsInf", ["x"], ["y"], detect_positive=0, detect_negative=0), ODD, {}, ODD == 77),
    "pow_integers": (node("Pow", ["x", "b"], ["y"]), np.float32([2, 3]), {"b": np.int64([3, 2])}, np.float32([8, 9])),
    "space_to_depth_crd": (
        node("SpaceToDepth", ["x"], ["y"], blocksize=2, mode="CRD"),
        X,
        {},
        X.reshape(1, 4, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(1, 16, 2, 3),
    ),
    "lp_normalization": (
        node("LpNormalization", ["x"], ["y"], axis=1),
        np.float32([[3, 4], [0, 0]]),
        {},
        np.float32([[0.6, 0.8], [0, 0]]),
    ),
    "lp_normalization_1": (
        node("LpNormalization", ["x"], ["y"], axis=0, p=1),
        np.float32([[3, 4], [-1, 0]]),
        {},
        np.float32([[0.75, 1], [-0.25, 0]]),
    ),
    "compress": (node("Compress", ["x", "c"], ["y"], axis=3), X, {"c": np.array([1, 0, 1], bool)}, X[..., [0, 2]]),
    "compress_flat": (node("Compress", ["x", "c"], ["y"]), X, {"c": np.array([0, 1], bool)}, X.reshape(-1)[1:2]),
    "reverse_sequence": (
        node("ReverseSequence", ["x", "n"], ["y"], batch_axis=2, time_axis=1),
        X,
        {"n": np.int64([1, 2, 4, 3])},
        np.stack([np.concatenate([X[:, :n, i][:, ::-1], X[:, n:, i]], 1) for i, n in enumerate((1, 2, 4, 3))], 2),
    ),
    "unsqueeze_by_a_number": (node("Unsqueeze", ["x", "a"], ["y"]), X, {"a": np.int64(-2)}, X[..., None, :]),
    "tile": (node("Tile", ["x", "n"], ["y"]), X[0], {"n": np.int64([2, 6, 2])}, np.tile(X[0], (2, 6, 2))),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str, save_onnx: Callable[..., Path], run: Any) -> None:
    operator, x, weights, expected = CASES[case]
    opset = 28 if operator.op_type == "SpaceToDepth" else 17
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"this version of onnx does not know opset {opset}")
    loaded = load_model(save_onnx([operator], {"x": (x.shape, "float32")}, weights, opset=opset))
    (found,) = run(loaded, x)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_pools_of_the_same_size(operator: str, mode: str, save_onnx: Callable[..., Path], run: Any) -> None:
    """A window of 3 with stride 2 over 4 rows (pads 1 in all) and 6 columns (1): padding does not count."""
    x = X[:1, :1]
    pooled = node(operator, ["x"], ["y"], kernel_shape=(3, 3), strides=(2, 2), auto_pad=mode)
    loaded = load_model(save_onnx([pooled], {"x": (x.shape, "float32")}))
    front = 0 if mode == "SAME_UPPER" else 1
    of = np.nanmax if operator == "MaxPool" else np.nanmean
    padded = np.pad(x[0, 0], ((front, 1 - front),) * 2, constant_values=np.nan)
    expected = [[of(padded[i : i + 3, j : j + 3]) for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_allclose(run(loaded, x)[0][0, 0], expected, rtol=1e-6)
    assert loaded.reference is not None
    answers = loaded.reference.answers({"x": x})
    if mode == "SAME_LOWER" and importlib.util.find_spec("onnxruntime") is None:
        with pytest.raises(NoReferenceError, match="SAME_LOWER"):
            list(answers)
    else:
        np.testing.assert_allclose(next(answers).outputs[0][0, 0], expected, rtol=1e-6)


def test_mod_has_the_sign_of_the_divisor_also_of_infinity(save_onnx: Callable[..., Path], run: Any) -> None:
    a, b = np.float32([5, -5, 5, -5, -3, 3, 1, 1.5]), np.float32([3, 3, -3, -3, INF, INF, -INF, 0.5])
    loaded = load_model(save_onnx([node("Mod", ["a", "b"], ["y"])], {"a": ((8,), "float32"), "b": ((8,), "float32")}))
    np.testing.assert_array_equal(run(loaded, a, b)[0], np.float32([2, 1, -1, -2, INF, 3, -INF, 0]))


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        (node("NonZero", ["x"], ["y"]), "NonZero .*depends on the data"),
        (node("BatchNormalization", ["x", "v", "v", "v", "v"], ["y"], training_mode=1), "training mode"),
        (node("RoiAlign", ["x", "r", "i"], ["y"], mode="max"), "mode 'max'"),
    ],
)
def test_what_is_refused_by_name(operator: onnx.NodeProto, text: str, save_onnx: Callable[..., Path]) -> None:
    weights = {"v": np.ones(4, np.float32), "r": np.float32([[0, 0, 1, 1]]), "i": np.int64([0])}
    held = {name: w for name, w in weights.items() if name in operator.input}
    with pytest.raises(UnsupportedModelError, match=f"^[^\n]*{text}[^\n]*$"):
        load_model(save_onnx([operator], {"x": (X.shape, "float32")}, held))


SCALES = np.float32([1, 1, 0.6, 0.6])
RESIZES = {  # case -> (attributes, weights by operand)
    "down_linear": ({"mode": "linear"}, {"scales": SCALES}),
    "scale_that_is_no_ratio": ({"mode": "nearest", "nearest_mode": "floor"}, {"scales": np.float32([1, 1, 1.3, 1.7])}),
    "antialias": ({"mode": "linear", "antialias": 1}, {"scales": SCALES}),
    "antialias_cubic": ({"mode": "cubic", "antialias": 1}, {"sizes": np.int64([1, 4, 3, 2])}),
    "exclude_outside": ({"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}, {"scales": 2 - SCALES}),
    "symmetric": ({"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}, {"scales": SCALES}),
    "one_corner": (
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"sizes": np.int64([1, 4, 1, 1])},
    ),
    "crop": (
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0},
        {"roi": np.float32([0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7]), "sizes": np.int64([1, 4, 3, 3])},
    ),
    "axes": ({"mode": "nearest", "axes": [3]}, {"sizes": np.int64([9])}),
    "not_larger": (
        {"mode": "nearest", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
        {"sizes": np.int64([7, 8])},
    ),
    "channels": ({"mode": "nearest"}, {"scales": np.float32([1, 2, 1, 1])}),
}


@pytest.mark.parametrize("case", RESIZES)
def test_resizing(case: str, save_onnx: Callable[..., Path], run: Any) -> None:
    attributes, weights = RESIZES[case]
    operands = ["x", *(name if name in weights else "" for name in ("roi", "scales", "sizes"))]
    while not operands[-1]:
        operands.pop()
    path = save_onnx([node("Resize", operands, ["y"], **attributes)], {"x": (X.shape, "float32")}, weights, opset=19)
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": X})
    (found,) = run(load_model(path), X)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_an_interpolation_add_up_to_one() -> None:
    matrix, constant = interpolation(8, 5, 5 / 8, None, {"mode": b"cubic"})
    assert matrix.shape == (5, 8) and not constant.any()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
