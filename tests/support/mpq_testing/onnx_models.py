"""ONNX networks of random weights, written node by node, for whole-network tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


class OnnxNet:
    """Each method adds operators and returns the name of the result."""

    def __init__(self, inputs: dict[str, tuple[int, ...]], seed: int = 0, opset: int = 20) -> None:
        self._rng = np.random.default_rng(seed)
        self._inputs = inputs
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, name: str | None = None, **attrs: Any) -> str:
        name = name or f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attrs))
        return name

    def value(self, array: Any, dtype: str = "float32", name: str | None = None) -> str:
        name = name or f"value{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 0.3, name: str | None = None) -> str:
        return self.value(self._rng.normal(0, scale, shape), name=name)

    def conv(
        self, x: str, inside: int, outside: int, kernel: int = 3, *, stride: int = 1, pad: int | None = None,
        group: int = 1, dilation: int = 1, bias: bool = True, name: str | None = None,
    ) -> str:  # fmt: skip
        pad = dilation * (kernel // 2) if pad is None else pad
        scale = (2 / (inside // group * kernel * kernel)) ** 0.5
        name = name or f"conv{len(self._nodes)}"
        weights = [self.normal(outside, inside // group, kernel, kernel, scale=scale, name=f"{name}.weight")]
        weights += [self.normal(outside, name=f"{name}.bias")] if bias else []
        return self.op(
            "Conv", x, *weights, name=name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
            dilations=[dilation] * 2, group=group,
        )  # fmt: skip

    def conv_bn(self, x: str, inside: int, outside: int, kernel: int = 3, **options: Any) -> str:
        y = self.conv(x, inside, outside, kernel, bias=False, **options)
        scale, shift = self.value(self._rng.uniform(0.5, 1.5, outside)), self.normal(outside)
        mean, variance = self.normal(outside), self.value(self._rng.uniform(0.5, 1.5, outside))
        return self.op("BatchNormalization", y, scale, shift, mean, variance)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def linear(self, x: str, inside: int, outside: int, name: str | None = None) -> str:
        name = name or f"linear{len(self._nodes)}"
        weights = self.normal(outside, inside, name=f"{name}.weight"), self.normal(outside, name=f"{name}.bias")
        return self.op("Gemm", x, *weights, name=name, transB=1)

    def classifier(self, x: str, channels: int, classes: int = 10) -> str:
        return self.linear(self.op("Flatten", self.op("GlobalAveragePool", x)), channels, classes, name="fc")

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self._inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            self._weights,
        )
        opset = [helper.make_opsetid("", self._opset)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opset, ir_version=9))


def reference_outputs(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX's own definition gives."""
    return [np.asarray(y) for y in ReferenceEvaluator(str(path)).run(None, inputs)]


def residual() -> onnx.ModelProto:
    """Batch-norms, max pooling, depthwise, residual add, concat, stride 2, average, classifier; odd channel counts."""
    net = OnnxNet({"x": (1, 3, 16, 16)})
    y = net.relu(net.conv_bn("x", 3, 20, name="stem"))
    y = net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    z = net.op("Clip", net.conv_bn(y, 20, 20, group=20, name="depthwise"), net.value(0.0), net.value(6.0))
    z = net.conv_bn(z, 20, 20, 1, name="pointwise")
    y = net.relu(net.op("Add", z, y))
    a = net.relu(net.conv(y, 20, 8, 1, name="branch1"))
    b = net.relu(net.conv(y, 20, 9, 3, name="branch3"))
    y = net.op("Concat", a, b, axis=1)
    y = net.relu(net.conv_bn(y, 17, 33, stride=2, name="down"))
    return net.model(net.classifier(y, 33))


def two_consumers() -> onnx.ModelProto:
    """One tensor read by two convolutions, whose results meet again."""
    net = OnnxNet({"x": (1, 3, 8, 8)})
    y = net.relu(net.conv("x", 3, 16, name="stem"))
    left, right = net.conv(y, 16, 16, name="left"), net.conv(y, 16, 16, 1, name="right")
    y = net.op("Add", net.op("Sigmoid", left), net.relu(right))
    return net.model(net.classifier(y, 16))


def two_outputs() -> onnx.ModelProto:
    """A tuple; the first result is also read inside."""
    net = OnnxNet({"x": (1, 3, 8, 8)})
    y = net.relu(net.conv("x", 3, 16, name="stem"))
    z = net.relu(net.conv(y, 16, 24, stride=2, name="next"))
    return net.model(y, net.classifier(z, 24))


def two_inputs() -> onnx.ModelProto:
    net = OnnxNet({"left": (1, 3, 8, 8), "right": (1, 5, 8, 8)})
    a, b = net.relu(net.conv("left", 3, 16, name="a")), net.relu(net.conv("right", 5, 16, name="b"))
    return net.model(net.classifier(net.op("Mul", a, b), 16))


def channels_last_input() -> onnx.ModelProto:
    """The input comes as NHWC: nothing to lay out."""
    net = OnnxNet({"x": (1, 8, 8, 3)})
    y = net.op("Transpose", "x", perm=[0, 3, 1, 2])
    return net.model(net.classifier(net.relu(net.conv(y, 3, 16, name="stem")), 16))


def batch_of_two() -> onnx.ModelProto:
    net = OnnxNet({"x": (2, 3, 9, 9)})
    y = net.relu(net.conv_bn("x", 3, 16, name="stem"))
    y = net.relu(net.op("Add", net.conv(y, 16, 16, name="block"), y))
    return net.model(net.classifier(y, 16))


def float_middle() -> onnx.ModelProto:
    """Operators without a template between linear layers: layer normalization and softmax."""
    net = OnnxNet({"x": (1, 6, 24)})
    weight = [
        net.normal(*s, name=n)
        for n, s in (("embed.weight", (24, 32)), ("mix.weight", (32, 32)), ("head.weight", (32, 16)))
    ]
    y = net.op("MatMul", "x", weight[0])
    y = net.op("LayerNormalization", y, net.value(np.ones(32)), net.value(np.zeros(32)), axis=-1)
    y = net.op("MatMul", y, weight[1])
    y = net.op("Softmax", y, axis=-1)
    return net.model(net.op("MatMul", y, weight[2]))


def attention() -> onnx.ModelProto:
    """Two heads, as a post-norm encoder has them: q, k and v by layers of their own, heads joined for the next one."""
    net = OnnxNet({"x": (1, 9, 24)})
    weights = {n: net.normal(24, 32, name=f"{n}.weight") for n in "qkv"}
    heads = net.value([1, 9, 2, 16], "int64")
    q, k, v = (net.op("Reshape", net.op("MatMul", "x", weights[n], name=f"att.{n}"), heads) for n in "qkv")
    q, v = (net.op("Transpose", y, perm=[0, 2, 1, 3]) for y in (q, v))
    scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1])), net.value(4.0))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v, name="att.product")
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.value([1, 9, 32], "int64"))
    return net.model(net.op("MatMul", y, net.normal(32, 16, name="out.weight"), name="out"))


def activations() -> onnx.ModelProto:
    """Every activation that is not a clamp, behind convolutions, and a squeeze-excite product."""
    net = OnnxNet({"x": (1, 3, 8, 8)})
    y = net.op("HardSwish", net.conv("x", 3, 16, name="hard_swish"))
    y = net.op("Gelu", net.conv(y, 16, 16, name="gelu"))
    y = net.op("LeakyRelu", net.conv(y, 16, 16, name="leaky"), alpha=0.1)
    z = net.conv(y, 16, 16, 1, name="silu")
    y = net.op("Mul", z, net.op("Sigmoid", z))
    y = net.op("Tanh", net.conv(y, 16, 16, 1, name="tanh"))
    gate = net.relu(net.conv(net.op("GlobalAveragePool", y), 16, 4, 1, name="squeeze"))
    gate = net.op("HardSigmoid", net.conv(gate, 4, 16, 1, name="excite"), alpha=1 / 6, beta=0.5)
    return net.model(net.classifier(net.op("Mul", y, gate), 16))


def flattened() -> onnx.ModelProto:
    """Max pooling ties two ranges; a whole map with padded channels is flattened in front of a linear layer."""
    net = OnnxNet({"x": (1, 3, 8, 8)})
    a, b = net.relu(net.conv("x", 3, 6, name="a")), net.relu(net.conv("x", 3, 7, 5, name="b"))
    y = net.op("MaxPool", net.op("Concat", a, b, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.linear(net.op("Flatten", y), 13 * 16, 10, name="fc"))


def grouped() -> onnx.ModelProto:
    """Groups, a channel multiplier, dilation, and an average pool that counts its padding."""
    net = OnnxNet({"x": (1, 8, 9, 9)})
    y = net.relu(net.conv("x", 8, 16, group=2, name="grouped"))
    y = net.relu(net.conv(y, 16, 32, group=16, name="multiplied"))
    y = net.op("AveragePool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    y = net.relu(net.conv(y, 32, 16, dilation=2, name="dilated"))
    return net.model(net.classifier(y, 16))


def ends_in_conv() -> onnx.ModelProto:
    """Fully convolutional: the result is a map and goes back to NCHW."""
    net = OnnxNet({"x": (1, 3, 8, 8)})
    y = net.relu(net.conv("x", 3, 16, name="stem"))
    return net.model(net.conv(y, 16, 5, 1, name="last"))


def one_dimensional() -> onnx.ModelProto:
    """Conv1d as a speech or sensor network has it: batch norm, groups, a shortcut, pooling, flattened at the end."""
    net = OnnxNet({"x": (1, 8, 64)})
    y = net.op("Conv", "x", net.normal(16, 8, 5, name="stem.weight"), name="stem", strides=[2], pads=[2, 2])
    scale, shift = net.value(np.linspace(0.5, 1.5, 16)), net.normal(16)
    y = net.relu(net.op("BatchNormalization", y, scale, shift, net.normal(16), net.value(np.linspace(0.5, 2.0, 16))))
    z = net.op("Conv", y, net.normal(16, 1, 3, name="depthwise.weight"), name="depthwise", group=16, pads=[1, 1])
    weights = net.normal(16, 16, 3, scale=0.2, name="block.weight"), net.normal(16, name="block.bias")
    z = net.op("Conv", net.relu(z), *weights, name="block", dilations=[2], pads=[2, 2])
    y = net.relu(net.op("Add", z, y))
    y = net.op("MaxPool", y, kernel_shape=[2], strides=[2])
    return net.model(net.linear(net.op("Flatten", y), 16 * 16, 10, name="fc"))


def transposed() -> onnx.ModelProto:
    """An encoder and decoder: k2s2 with a skip connection, batch norm and output padding, k4s2p1."""
    net = OnnxNet({"x": (1, 3, 12, 10)})
    skip = net.relu(net.conv("x", 3, 16, name="stem"))
    y = net.relu(net.conv(skip, 16, 24, 2, stride=2, pad=0, name="down"))
    weights = net.normal(24, 16, 2, 2, name="up.weight"), net.normal(16, name="up.bias")
    y = net.relu(net.op("Add", net.op("ConvTranspose", y, *weights, name="up", strides=[2, 2]), skip))
    window: dict[str, Any] = {"strides": [2, 1], "pads": [1, 1, 1, 1], "output_padding": [1, 0]}
    y = net.op("ConvTranspose", y, net.normal(16, 12, 3, 3, name="wide.weight"), name="wide", **window)
    scale, shift, mean = net.value(np.linspace(0.5, 1.5, 12)), net.normal(12), net.normal(12)
    y = net.relu(net.op("BatchNormalization", y, scale, shift, mean, net.value(np.linspace(0.5, 2.0, 12))))
    weight = net.normal(12, 20, 4, 4, name="last.weight")
    y = net.relu(net.op("ConvTranspose", y, weight, name="last", strides=[2, 2], pads=[1] * 4))
    return net.model(net.classifier(y, 20))


def depthwise_and_shortcut(side: int, channels: int) -> onnx.ModelProto:
    """Operators stem, depthwise, block (with a shortcut) and fc."""
    net = OnnxNet({"x": (1, 3, side, side)})
    y = net.relu(net.conv("x", 3, channels, name="stem"))
    y = net.relu(net.conv(y, channels, channels, group=channels, name="depthwise"))
    y = net.relu(net.op("Add", net.conv(y, channels, channels, 1, name="block"), y))
    return net.model(net.classifier(y, channels))


def multilayer() -> onnx.ModelProto:
    """Linear layers only, an autoencoder: its result has its input's shape."""
    net = OnnxNet({"x": (1, 40)})
    y = net.relu(net.linear("x", 40, 24, name="encode"))
    return net.model(net.linear(y, 24, 40, name="decode"))


def nothing_to_quantize() -> onnx.ModelProto:
    net = OnnxNet({"x": (1, 12)})
    return net.model(net.op("Softmax", net.op("Mul", "x", net.value(2.0)), axis=-1))


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        residual, two_consumers, two_outputs, two_inputs, channels_last_input, batch_of_two, float_middle, activations,
        flattened, grouped, ends_in_conv, one_dimensional, transposed,
        multilayer, attention,
    )
}  # fmt: skip
