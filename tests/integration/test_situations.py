"""What importers get wrong, at 8 bits in a built library: loop nests, outputs that nothing computes, odd windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mpq_testing.onnx_models import OnnxNet, reference_outputs
from mpq_testing.slowly import slow_but
from tvm_mpq.execute import network
from tvm_mpq.pipeline import Options, build_network
from tvm_mpq.tuning.devices.pool import ThisMachine


def sequence() -> onnx.ModelProto:
    """Behind one product: copies, a resized line, a sum of products, a running sum, places, truths, constants."""
    net = OnnxNet({"x": (1, 6, 16)})
    y = net.op("MatMul", "x", net.normal(16, 16))
    copies = net.op("Tile", y, net.value([1, 2, 1], "int64"))
    line = net.op("Resize", y, "", net.value([1.0, 1.0, 2.0]), mode="linear")
    heads = net.op("Einsum", y, net.normal(16, 2, 8), equation="bld,dhk->bhlk")
    running = net.op("CumSum", y, net.value(1, "int64"), reverse=1)
    anchors = net.value([1.0, 2.0, 3.0], name="anchors")
    return untyped(net.model(y, copies, line, heads, running, anchors, "x"))


def image() -> onnx.ModelProto:
    """Behind one convolution: windows that end outside, channels that become pixels, groups that are normalised."""
    net = OnnxNet({"x": (1, 3, 9, 9)}, opset=21)
    y = net.conv("x", 3, 8)
    pooled = net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    mean = net.op("AveragePool", y, kernel_shape=[4, 3], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1)
    pixels = net.op("DepthToSpace", y, blocksize=2, mode="CRD")
    groups = net.op("GroupNormalization", y, net.normal(8), net.normal(8), num_groups=4)
    clipped = net.op("Clip", y, net.value(2.0), net.value(1.0))
    places = net.op("ArgMax", clipped, axis=1)  # all alike: the first
    positive = net.op("Less", net.op("Abs", y), net.value(-1.0))
    return untyped(net.model(y, pooled, mean, pixels, groups, clipped, places, positive))


def untyped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Outputs without declared types, which OnnxNet says are floats."""
    names = [o.name for o in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
    return model


@pytest.mark.parametrize("graph", slow_but([sequence, image], image))
def test_values_at_8_bits(graph: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """Each operator alone and in floats: tests/unit/frontends/test_onnx_situations.py."""
    model, path = graph(), tmp_path / "net.onnx"
    onnx.save(model, str(path))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(0, 1, (12, *shape[1:])).astype(np.float32)
    options = Options(path, data={"x": x}, db=tmp_path / "db", verify_import=False)  # its outputs are compared below
    build_network(options, uniform="w8a8").save(tmp_path / "out")
    library = tmp_path / "out" / "model.so"
    (found,) = ThisMachine(1).do(lambda session: network.run_outputs(session, library, [[x[:1]]]))
    for result, value in zip(found, reference_outputs(path, {"x": x[:1]}), strict=True):
        assert result.shape == value.shape and result.dtype == value.dtype
        if value.dtype == np.float32:
            assert np.linalg.norm(result - value) <= 0.1 * np.linalg.norm(value)  # 20 dB
        else:
            np.testing.assert_array_equal(result, value)
