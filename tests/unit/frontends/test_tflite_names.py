from __future__ import annotations

from tvm_mpq.frontends.tflite_names import OperatorTensors, operator_names

FUSED = "model/activation/Relu;model/batch_norm/FusedBatchNormV3;model/conv2d/BiasAdd;model/conv2d/Conv2D1"


def test_names_come_from_weights_or_outputs_without_the_shared_root() -> None:
    depthwise = "model/batch_norm_1/FusedBatchNormV3;model/depthwise_conv2d/depthwise;model/conv2d_4/Conv2D"
    operators = [
        OperatorTensors("CONV_2D", "model/conv2d/Conv2D", FUSED),
        OperatorTensors("DEPTHWISE_CONV_2D", depthwise, "model/activation_1/Relu;" + depthwise + "1"),
        OperatorTensors("ADD", None, "model/activation_2/Relu;model/add/add"),
        OperatorTensors("AVERAGE_POOL_2D", None, "model/average_pooling2d/AvgPool"),
        OperatorTensors("RESHAPE", None, "model/flatten/Reshape"),
        OperatorTensors("FULLY_CONNECTED", "model/dense/MatMul", "model/dense/MatMul;model/dense/BiasAdd"),
        OperatorTensors("SOFTMAX", None, "Identity"),
    ]
    wanted = ["conv2d", "depthwise_conv2d", "add", "average_pooling2d", "flatten", "dense", "softmax"]
    assert operator_names(operators) == wanted


def test_a_made_up_weight_name_gives_way_to_the_output() -> None:
    operators = [
        OperatorTensors("CONV_2D", "tfl.pseudo_qconst3", FUSED),
        OperatorTensors("FULLY_CONNECTED", "arith.constant", "StatefulPartitionedCall:0"),
    ]
    assert operator_names(operators) == ["model.conv2d", "StatefulPartitionedCall"]


def test_roots_that_differ_stay() -> None:
    operators = [
        OperatorTensors("CONV_2D", "left/conv/Conv2D", "a"),
        OperatorTensors("CONV_2D", "right/conv/Conv2D", "b"),
    ]
    assert operator_names(operators) == ["left.conv", "right.conv"]
