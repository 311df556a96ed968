"""Each operator against the ONNX package's own reference implementation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.frontends import load_model

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X = normal(1, 4, 8, 8)
node = helper.make_node
RELAX = {  # case -> (nodes, input, weights, opset, operators that must come out)
    "clip_both": (
        [node("Clip", ["x", "lo", "hi"], ["y"])],
        X,
        {"lo": np.float32(0), "hi": np.float32(6)},
        17,
        ["clip"],
    ),
    "clip_relu": ([node("Clip", ["x", "lo"], ["y"])], X, {"lo": np.float32(0)}, 17, ["nn.relu"]),
    "clip_low": ([node("Clip", ["x", "lo"], ["y"])], X, {"lo": np.float32(0.5)}, 17, ["maximum"]),
    "clip_high": ([node("Clip", ["x", "", "hi"], ["y"])], X, {"hi": np.float32(0.5)}, 17, ["minimum"]),
    "clip_attributes": ([node("Clip", ["x"], ["y"], min=-0.5, max=0.5)], X, {}, 10, ["clip"]),
    "clip_constants": (
        [
            node("Constant", [], ["lo"], value_float=0.0),
            node("Constant", [], ["hi"], value=numpy_helper.from_array(np.float32(1))),
            node("Clip", ["x", "lo", "hi"], ["y"]),
        ],
        X,
        {},
        17,
        ["clip"],
    ),
    "pad": ([node("Pad", ["x", "p"], ["y"])], X, {"p": ints(0, 1, 1, 2, 0, 0, 2, 1)}, 17, ["nn.pad"]),
    "pad_value": (
        [node("Pad", ["x", "p", "v"], ["y"])],
        X,
        {"p": ints(0, 0, 1, 0, 0, 0, 0, 2), "v": np.float32(3)},
        17,
        ["nn.pad"],
    ),
    "pad_axes": (
        [node("Pad", ["x", "p", "", "a"], ["y"])],
        X,
        {"p": ints(1, 2, 3, 4), "a": ints(-2, -1)},
        18,
        ["nn.pad"],
    ),
    "pad_attributes": ([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 2, 1], value=1.5)], X, {}, 10, ["nn.pad"]),
    "pad_reflect": (
        [node("Pad", ["x", "p"], ["y"], mode="reflect")],
        X,
        {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)},
        17,
        ["nn.pad"],
    ),
    "pad_edge": ([node("Pad", ["x", "p"], ["y"], mode="edge")], X, {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, 17, ["nn.pad"]),
    "pad_nothing": (
        [node("Pad", ["x", "p"], ["h"]), node("Relu", ["h"], ["y"])],
        X,
        {"p": ints(*[0] * 8)},
        17,
        ["nn.relu"],
    ),
    "dropout": ([node("Dropout", ["x"], ["h"]), node("Relu", ["h"], ["y"])], X, {}, 17, ["nn.relu"]),
    "identity": ([node("Identity", ["x"], ["h"]), node("Relu", ["h"], ["y"])], X, {}, 17, ["nn.relu"]),
    "conv_same_upper": (
        [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])],
        X,
        {"w": normal(6, 4, 3, 3)},
        17,
        ["nn.conv2d"],
    ),
    "conv_same_lower": (
        [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2], kernel_shape=[3, 3])],
        X,
        {"w": normal(6, 4, 3, 3)},
        17,
        ["nn.conv2d"],
    ),
    "transposed_output_shape_upper": (
        [node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2], output_shape=[16, 14])],
        X,
        {"w": normal(4, 3, 3, 3)},
        17,
        ["nn.conv2d_transpose"],
    ),
    "transposed_output_shape_lower": (
        [node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2], output_shape=[16, 14])],
        X,
        {"w": normal(4, 3, 3, 3)},
        17,
        ["nn.conv2d_transpose"],
    ),
    "transposed_same_upper": (
        [node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])],
        X,
        {"w": normal(4, 3, 3, 3)},
        17,
        ["nn.conv2d_transpose"],
    ),
    "conv1d": (
        [node("Conv", ["x", "w", "b"], ["y"], strides=[2], pads=[1, 2], dilations=[3], group=2)],
        X[0],
        {"w": normal(6, 4, 3), "b": normal(6)},
        17,
        ["nn.conv1d", "reshape", "add"],
    ),
    "transposed_1d": (
        [node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[3], pads=[1, 0], output_padding=[1], dilations=[2])],
        X[0],
        {"w": normal(8, 5, 3), "b": normal(5)},
        17,
        ["nn.conv1d_transpose", "reshape", "add"],
    ),
    "average_pool": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1)],
        X,
        {},
        17,
        ["nn.avg_pool2d"],
    ),
    "gather": (
        [
            node("Constant", [], ["table"], value=numpy_helper.from_array(normal(5, 3))),
            node("Gather", ["table", "x"], ["y"]),
        ],
        np.array([[1, -1, 4]], np.int64),
        {},
        17,
        ["take"],
    ),
    "gemm": (
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        normal(1, 4),
        {"w": normal(5, 4), "b": normal(5)},
        17,
        ["multiply", "permute_dims", "matmul", "multiply", "add"],
    ),
    "flatten_by_shape": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Unsqueeze", ["n", "axes"], ["n1"]),
            node("Concat", ["n1", "minus"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ],
        X,
        {"zero": np.array(0, np.int64), "axes": ints(0), "minus": ints(-1)},
        17,
        ["reshape"],
    ),
}


@pytest.mark.parametrize("case", RELAX)
def test_operator_arrives_as_plain_relax_and_computes_the_same(case, save_onnx, run, operators) -> None:
    nodes, x, weights, opset, wanted = RELAX[case]
    path = save_onnx(nodes, {"x": (x.shape, str(x.dtype))}, weights, opset=opset)
    loaded = load_model(path)
    assert [op.removeprefix("relax.") for op in operators(loaded).values()] == wanted
    reference = ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": x})[0]
    (got,) = run(loaded, x)
    assert got.shape == reference.shape
    np.testing.assert_allclose(got, reference, rtol=0, atol=1e-5)  # sums of at most 36 products of size about 1


def test_an_output_shape_without_pads_is_resolved_as_onnx_runtime_does(save_onnx, run) -> None:
    """The odd element of padding in front; what the shape has more than the kernel reaches, behind."""
    weights = {"w": normal(4, 3, 3, 1)}
    asked = save_onnx(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 3], output_shape=[16, 23])],
        {"x": (X.shape, "float32")},
        weights,
    )
    (got,) = run(load_model(asked), X)
    explicit = save_onnx(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 3], pads=[1, 0, 0, 0], output_padding=[0, 1])],
        {"x": (X.shape, "float32")},
        weights,
    )
    reference = ReferenceEvaluator(onnx.load(str(explicit))).run(None, {"x": X})[0]
    assert got.shape == reference.shape == (1, 3, 16, 23)
    np.testing.assert_allclose(got, reference, rtol=0, atol=1e-5)


def test_negative_padding_crops(save_onnx, run) -> None:
    path = save_onnx(
        [node("Pad", ["x", "p"], ["y"])], {"x": (X.shape, "float32")}, {"p": ints(0, 0, -1, 2, 0, 0, 1, -3)}
    )
    (got,) = run(load_model(path), X)
    want = np.pad(X[:, :, 1:, :-3], ((0, 0), (0, 0), (0, 1), (2, 0)))
    np.testing.assert_array_equal(got, want)


def test_a_clip_without_bounds_is_nothing(save_onnx, operators) -> None:
    nodes = [node("Clip", ["x", "", "high"], ["h"]), node("Relu", ["h"], ["y"])]
    path = save_onnx(nodes, {"x": ((1, 4), "float32")}, {"high": np.float32(np.inf)})
    assert list(operators(load_model(path)).values()) == ["relax.nn.relu"]
