from __future__ import annotations

import pytest
from tvm import relax

from mpq_testing.slowly import slow_but
from tvm_mpq.passes.normalize import Normalize
from tvm_mpq.passes.normalize.channels_last import ChannelsLast
from tvm_mpq.passes.normalize.conv1d_as_conv2d import Conv1dAsConv2d
from tvm_mpq.passes.normalize.simplify import Simplify

op = relax.op
PASSES = [Simplify(), Conv1dAsConv2d(), ChannelsLast(), Simplify()]
MAPS = (2, 4, 12)
IN, OUT = ["permute_dims", "reshape"], ["reshape", "permute_dims"]


def conv1d(b, x, out: int, kernel: int = 3, **attrs) -> relax.Var:
    channels = int(x.ty.shape[1]) // attrs.get("groups", 1)
    return b(op.nn.conv1d(x, b.const(out, channels, kernel), **attrs))


def raised(lab, body, *shapes: tuple[int, ...]) -> list[str]:
    return lab.ops(lab.apply(PASSES, lab.module(body, *shapes or (MAPS,))))


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": 2, "padding": (2, 1)},
        {"dilation": 3, "padding": 2},
        {"groups": 2},
        {"groups": 4, "padding": 1},
    ],
)
def test_a_convolution_of_height_1(lab, attrs) -> None:
    assert raised(lab, lambda b, x: conv1d(b, x, 8, **attrs)) == [*IN, "nn.conv2d", *OUT]


def test_nothing_stands_between_two_convolutions(lab) -> None:
    def body(b, x):
        y = b(op.nn.relu(b(op.add(conv1d(b, x, 6, padding=1), b.const(6, 1)))))
        z = b(op.add(conv1d(b, y, 6, padding=1), y))
        return conv1d(b, b(op.nn.max_pool1d(z, 2, 2)), 4, 1)

    middle = ["nn.conv2d", "add", "nn.relu", "nn.conv2d", "add", "nn.max_pool2d", "nn.conv2d"]
    assert raised(lab, body) == [*IN, *middle, *OUT]


FOLLOWERS = {
    "constant of equal rank": lambda b, y: op.multiply(y, b.const(1, 4, 1)),
    "constant of the width": lambda b, y: op.multiply(y, b.const(10)),
    "scalar": lambda b, y: op.subtract(b.const(), y),
    "concat of channels": lambda b, y: op.concat([y, b(op.tanh(y))], 1),
    "concat of columns": lambda b, y: op.concat([y, y], -1),
    "pad": lambda b, y: op.nn.pad(y, [0, 0, 1, 2, 3, 0]),
    "slice": lambda b, y: op.strided_slice(y, [1, 2], [1, 0], [3, 6], [1, 2]),
    "mean of the map": lambda b, y: op.multiply(b(op.mean(y, [2], keepdims=True)), y),
    "maximum of channels": lambda b, y: op.max(y, [1], keepdims=True),
    "softmax of channels": lambda b, y: op.nn.softmax(y, 1),
    "softmax of columns": lambda b, y: op.nn.softmax(y, 2),
    "prelu": lambda b, y: op.nn.prelu(y, b.const(4, low=0.0), 1),
    "max pool": lambda b, y: op.nn.max_pool1d(y, 3, 2, (1, 0), ceil_mode=True),
    "average pool": lambda b, y: op.nn.avg_pool1d(y, 3, 2, (1, 0), count_include_pad=True),
    "average pool of valid cells": lambda b, y: op.nn.avg_pool1d(y, 3, 2, (1, 1), count_include_pad=False),
    "adaptive pool": lambda b, y: op.nn.adaptive_avg_pool1d(y, 5),
}


@pytest.mark.parametrize("name", FOLLOWERS)
def test_neighbours_follow_the_convolution(lab, name) -> None:
    names = raised(lab, lambda b, x: conv1d(b, b(FOLLOWERS[name](b, conv1d(b, x, 4))), 3, 1))
    assert names[:2] == IN and names[-2:] == OUT
    assert not {"permute_dims", "reshape"} & set(names[2:-2])


@pytest.mark.parametrize("name", slow_but(FOLLOWERS, *list(FOLLOWERS)[::2]))
def test_operators_before_the_first_convolution_follow_too(lab, name) -> None:
    names = raised(lab, lambda b, x: conv1d(b, b(FOLLOWERS[name](b, x)), 3, 1), (2, 4, 10))
    assert names[:2] == IN and not {"permute_dims", "reshape"} & set(names[2:-2])


def test_a_height_that_the_model_gives_and_takes_is_the_same_one(lab) -> None:
    def body(b, x):
        y = b(op.expand_dims(conv1d(b, x, 4), 2))
        y = b(op.squeeze(b(op.nn.adaptive_avg_pool2d(y, (1, 5))), [2]))
        return conv1d(b, b(op.nn.relu(y)), 3, 1)

    assert raised(lab, body) == [*IN, "nn.conv2d", "nn.adaptive_avg_pool2d", "nn.relu", "nn.conv2d", *OUT]


MEANS = {
    "of a map": lambda b, y: op.mean(y, [-1]),
    "with its axis": lambda b, y: op.mean(y, [2], keepdims=True),
    "of a map with height": lambda b, y: op.mean(b(op.expand_dims(y, 2)), [-1, -2], keepdims=True),
}


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_of_all_columns_is_global_pooling(lab, name) -> None:
    def body(b, x):
        y = b(MEANS[name](b, b(op.nn.relu(conv1d(b, x, 16)))))
        return b(op.matmul(b(op.reshape(y, (2, 16))), b.const(16, 3)))

    new = lab.apply([Normalize()], lab.module(body, MAPS))
    assert lab.ops(new) == [*IN, "conv2d", "avg_pool2d", "reshape", "linear"]


def test_a_network_from_input_to_classifier(lab) -> None:
    """Batch norm and bias folded, activations and the residual add fused; the flatten is of stored cells."""

    def body(b, x):
        y = conv1d(b, x, 16, 5, strides=2, padding=2)
        norm = op.nn.batch_norm(y, b.const(16), b.const(16), b.const(16), b.const(16, low=0.5), 1, training=False)
        y = b(op.nn.relu(b(relax.TupleGetItem(b(norm), 0))))
        z = b(op.add(conv1d(b, y, 16, padding=1), b.const(1, 16, 1)))
        z = b(op.nn.max_pool1d(b(op.nn.relu(b(op.add(z, y)))), 2, 2))
        return b(op.matmul(b(op.reshape(z, (2, 48))), b.const(48, 5)))

    new = lab.apply([Normalize()], lab.module(body, MAPS))
    assert lab.ops(new) == [*IN, "conv2d", "conv2d", "max_pool2d", "reshape", "linear"]
    first, second = (a for a in lab.attrs(new).values() if a["kind"] == "conv2d")
    assert (first["workload"].in_height, first["workload"].kernel, first["workload"].stride) == (1, (1, 5), (1, 2))
    assert first["workload"].padding == (0, 2, 0, 2) and first["activation"] == "relu"
    assert second["workload"].residual and second["activation"] == "relu"


def test_columns_as_rows_of_a_linear_layer(lab) -> None:
    """[N, C, W] -> [N, W, C], as before a transformer, is the order that maps have: the linear layer reads the map."""

    def body(b, x):
        y = b(op.permute_dims(b(op.nn.relu(conv1d(b, x, 16))), (0, 2, 1)))
        return b(op.matmul(y, b.const(16, 5)))

    assert lab.ops(lab.apply([Normalize()], lab.module(body, MAPS))) == [*IN, "conv2d", "linear", "reshape"]


def test_others_stay(lab) -> None:
    """Computed weights, channels-last data, and what no one-dimensional convolution reads or writes."""

    def body(b, x, w):
        y = b(op.nn.conv1d(x, w))
        return b(op.nn.relu(b(op.add(y, b.const(5, 1)))))

    assert raised(lab, body, MAPS, (5, 4, 3)) == ["nn.conv1d", "add", "nn.relu"]
    last = lab.module(lambda b, x: b(op.nn.conv1d(x, b.const(3, 12, 2), data_layout="NWC", kernel_layout="OIW")), MAPS)
    assert lab.ops(Conv1dAsConv2d()(last)) == ["nn.conv1d"]
