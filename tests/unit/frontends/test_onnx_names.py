from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tvm_mpq.frontends.onnx_names import operator_names


def _names(nodes: list[onnx.NodeProto], *weights: str) -> list[str]:
    tensors = [numpy_helper.from_array(np.zeros((1, 1), np.float32), w) for w in weights]
    return operator_names(helper.make_graph(nodes, "g", [], [], tensors))


@pytest.mark.parametrize(
    ("weight", "name", "output", "wanted"),
    [
        ("layer1.0.conv1.weight", "/layer1/layer1.0/conv1/Conv", "a", "layer1.0.conv1"),
        ("onnx::Conv_123", "/features/features.0/conv/Conv", "a", "features.0.conv"),
        ("onnx::Conv_123", "Conv_7", "a", "Conv_7"),
        ("17", "", "/stem/Conv_output_0", "stem"),
        ("val_3", "node_conv2d_2", "conv2d_2", "conv2d_2"),
        ("conv0_weight", "", "conv0_out", "conv0"),
        ("model/conv2d/Conv2D/ReadVariableOp:0", "model/conv2d/Conv2D", "a", "model.conv2d"),
    ],
)
def test_a_convolution_is_called_after_its_weight_or_else_its_node(weight, name, output, wanted) -> None:
    assert _names([helper.make_node("Conv", ["x", weight], [output], name=name)], weight) == [wanted]


def test_a_matmul_with_a_made_up_weight_is_called_after_the_bias_that_is_added() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_3"], ["h"], name="MatMul_0"),
        helper.make_node("Add", ["head.bias", "h"], ["y"], name="Add_1"),
    ]
    assert _names(nodes, "onnx::MatMul_3", "head.bias") == ["head", "Add_1"]


def test_a_weight_is_seen_through_a_transpose_and_a_constant_node() -> None:
    value = numpy_helper.from_array(np.zeros((2, 2), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["fc.weight"], value=value),
        helper.make_node("Transpose", ["fc.weight"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    assert _names(nodes)[2] == "fc"


def test_operators_without_weights_are_called_after_their_node() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="/layer1/layer1.0/relu/Relu"),
        helper.make_node("MatMul", ["a", "b"], ["y"], name="/attention/MatMul_1"),
        helper.make_node("Add", ["a", "b"], ["sum"]),
    ]
    assert _names(nodes) == ["layer1.0.relu.Relu", "attention.MatMul_1", "sum"]
