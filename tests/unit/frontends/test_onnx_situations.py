"""Situations that users of importers reported, each with its right value: by ONNX's own evaluator, or written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model

node = helper.make_node
rng = np.random.default_rng(12)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    opset: int,
    outputs: Sequence[str],
) -> Path:
    """The file of a graph with these inputs, of no declared output types."""
    kinds = {n: helper.np_dtype_to_tensor_dtype(x.dtype) for n, x in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, kinds[n], x.shape) for n, x in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


IMAGE, ROWS, LINE = normal(1, 3, 8, 8), normal(1, 6, 16), normal(2, 3, 5)
CONV = node("Conv", ["x", "w"], ["c"], pads=[1] * 4)
W = {"w": normal(8, 3, 3, 3)}
PRODUCT = {"w": normal(16, 16)}
EMPTY = np.zeros(0, np.float32)
SIZES_OF_C = [
    node("Shape", ["c"], ["shape"]),
    node("Slice", ["shape", "two", "four", "zero"], ["size"]),
    node("Mul", ["size", "two"], ["twice"]),
    node("Concat", ["one_eight", "twice"], ["sizes"], axis=0),
]
NAMES = {"two": ints(2), "four": ints(4), "zero": ints(0), "one_eight": ints(1, 8)}

Situation = tuple[list[onnx.NodeProto], dict[str, np.ndarray], dict[str, np.ndarray], int]

SITUATIONS: dict[str, Situation] = {  # situation -> (nodes, inputs, weights, opset); the output is y
    "einsum": (
        [node("Einsum", ["x", "e"], ["y"], equation="bld,dhk->bhlk")], {"x": ROWS}, {"e": normal(16, 2, 8)}, 17,
    ),
    "running_sum_from_the_end": (
        [node("CumSum", ["x", "axis"], ["y"], reverse=1)], {"x": ROWS}, {"axis": np.int64(1)}, 17,
    ),
    "running_sum_before_each": (
        [node("CumSum", ["x", "axis"], ["y"], exclusive=1)], {"x": ROWS}, {"axis": np.int64(-1)}, 17,
    ),
    "resize_of_a_line": (
        [node("Resize", ["x", "", "s"], ["y"], mode="linear")], {"x": ROWS}, {"s": np.float32([1, 1, 2])}, 17,
    ),
    "resize_asymmetric_by_no_ratio": (
        [node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="asymmetric")],
        {"x": normal(1, 2, 7, 9)}, {"s": np.float32([1, 1, 1.3, 1.7])}, 17,
    ),
    "resize_of_opset_11_with_empty_scales": (
        [node("Resize", ["x", "none", "none", "sizes"], ["y"], mode="linear",
              coordinate_transformation_mode="pytorch_half_pixel")],
        {"x": IMAGE}, {"none": EMPTY, "sizes": ints(1, 3, 16, 12)}, 11,
    ),
    "resize_to_a_computed_size": (
        [CONV, *SIZES_OF_C, node("Resize", ["c", "", "", "sizes"], ["y"], mode="nearest", nearest_mode="floor",
                                 coordinate_transformation_mode="asymmetric")],
        {"x": IMAGE}, W | NAMES, 13,
    ),
    "split_by_an_attribute": (
        [CONV, node("Split", ["c"], ["p", "q"], axis=1, split=[3, 5]), node("Concat", ["q", "p"], ["y"], axis=1)],
        {"x": IMAGE}, W, 11,
    ),
    "reshape_by_a_slice_of_the_shape": (
        [CONV, node("Shape", ["c"], ["shape"]), node("Slice", ["shape", "z", "o", "z"], ["b"]),
         node("Concat", ["b", "m"], ["t"], axis=0), node("Reshape", ["c", "t"], ["y"])],
        {"x": IMAGE}, W | {"z": ints(0), "o": ints(1), "m": ints(-1)}, 12,
    ),
    "not_a_number_replaced": (
        [node("IsNaN", ["x"], ["n"]), node("Where", ["n", "zero", "x"], ["y"])],
        {"x": np.float32([[1, np.nan, -np.inf, 0]])}, {"zero": np.float32(0)}, 17,
    ),
    "numbers_of_32_bits": (
        [node("Cast", ["x"], ["f"], to=1), node("MatMul", ["f", "w"], ["y"])],
        {"x": np.arange(-8, 8, dtype=np.int32)[None]}, PRODUCT, 15,
    ),
    "bytes": (
        [node("Cast", ["x"], ["f"], to=1), node("MatMul", ["f", "w"], ["y"])],
        {"x": np.arange(240, 256).astype(np.uint8)[None]}, PRODUCT, 15,
    ),
    "truths": ([node("Greater", ["x", "zero"], ["y"])], {"x": ROWS}, {"zero": np.float32(0)}, 15),
    "places": ([node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], {"x": IMAGE}, {}, 15),
    "upsampling_by_products": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])],
        {"x": IMAGE}, {"w": normal(3, 8, 3, 3)}, 13,
    ),
    "depth_to_space_channels_first": (
        [CONV, node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD")], {"x": IMAGE}, W, 13,
    ),
    "instance_norm": (
        [CONV, node("InstanceNormalization", ["c", "g", "b"], ["y"])],
        {"x": IMAGE}, W | {"g": normal(8), "b": normal(8)}, 13,
    ),
    "group_norm": (
        [CONV, node("GroupNormalization", ["c", "g", "b"], ["y"], num_groups=4)],
        {"x": IMAGE}, W | {"g": normal(8), "b": normal(8)}, 21,
    ),
    "a_last_window_that_ends_outside": (
        [CONV, node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {"x": IMAGE}, W, 13,
    ),
    "conv_3d": (
        [node("Conv", ["x", "w"], ["y"], pads=[1] * 6)],
        {"x": normal(1, 2, 6, 6, 6)}, {"w": normal(4, 2, 3, 3, 3)}, 13,
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
def test_right_values(situation: str, tmp_path: Path, run: Any) -> None:
    nodes, inputs, weights, opset = SITUATIONS[situation]
    path = saved(tmp_path / "net.onnx", nodes, inputs, weights, opset, ["y"])
    (expected,) = ReferenceEvaluator(str(path)).run(None, dict(inputs))
    (found,) = run(load_model(path), *inputs.values())
    assert found.shape == expected.shape and found.dtype == expected.dtype
    atol = 1e-5 * np.abs(expected[np.isfinite(expected)]).max() if found.dtype == np.float32 else 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


def test_softmax_of_opset_11_is_over_all_axes_from_its_own(tmp_path: Path, run: Any) -> None:
    path = saved(tmp_path / "net.onnx", [node("Softmax", ["x"], ["y"], axis=1)], {"x": LINE}, {}, 11, ["y"])
    powers = np.exp(LINE.reshape(2, 15))
    np.testing.assert_allclose(
        run(load_model(path), LINE)[0], (powers / powers.sum(1, keepdims=True)).reshape(LINE.shape), rtol=1e-5
    )


def test_outputs_that_nothing_computes(tmp_path: Path, run: Any) -> None:
    """An initializer, a Constant, an input, and a result that is named twice."""
    nodes = [
        node("Relu", ["x"], ["y"]),
        node("Constant", [], ["k"], value_ints=[4, 5]),
        node("Identity", ["y"], ["again"]),
    ]
    outputs = ["y", "anchors", "k", "x", "again"]
    path = saved(tmp_path / "net.onnx", nodes, {"x": LINE}, {"anchors": np.float32([1, 2, 3])}, 17, outputs)
    found = run(load_model(path), LINE)
    wanted = [np.maximum(LINE, 0), np.float32([1, 2, 3]), ints(4, 5), LINE, np.maximum(LINE, 0)]
    for result, value in zip(found, wanted, strict=True):
        assert result.dtype == value.dtype
        np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize("shape", [(1, 3, 16, 12), (2, 3, 8, 8)])
def test_free_sizes_are_given(shape: tuple[int, ...], tmp_path: Path, run: Any) -> None:
    """As detectors are exported: batch, height and width by name."""
    path = saved(tmp_path / "net.onnx", [CONV], {"x": IMAGE}, W, 17, ["c"])
    model = onnx.load(str(path))
    for axis, name in ((0, "b"), (2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, str(path))
    x = normal(*shape)
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    with pytest.raises(UnsupportedModelError, match="--input-shape x=1x3x"):
        load_model(path)
    (found,) = run(load_model(path, input_shapes={"x": shape}), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_boxes_to_suppress_are_refused_by_name(tmp_path: Path) -> None:
    boxes, scores = np.abs(normal(1, 10, 4)), np.abs(normal(1, 2, 10))
    nms = node("NonMaxSuppression", ["boxes", "scores", "k"], ["y"])
    path = saved(tmp_path / "net.onnx", [nms], {"boxes": boxes, "scores": scores}, {"k": ints(5)}, 13, ["y"])
    with pytest.raises(UnsupportedModelError, match=r"^[^\n]*NonMaxSuppression[^\n]*end the network before it[^\n]*$"):
        load_model(path)
