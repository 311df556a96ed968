from __future__ import annotations

import pytest
from tvm import relax

from tvm_mpq.passes.normalize.channels_last import ChannelsLast
from tvm_mpq.passes.normalize.simplify import Simplify

op = relax.op
PASSES = [ChannelsLast(), Simplify()]
MAPS = (1, 4, 8, 6)


def moved(lab, body, *shapes: tuple[int, ...]) -> list[str]:
    return lab.ops(lab.apply(PASSES, lab.module(body, *shapes or (MAPS,))))


def test_one_permute_at_the_input_and_one_at_the_output(lab) -> None:
    def body(b, x):
        y = b(op.nn.relu(b.conv(x, 6, padding=1, strides=(2, 1))))
        y = b(op.add(y, b.const(1, 6, 1, 1)))
        return b(op.nn.max_pool2d(b.conv(y, 4, groups=2), (2, 2), padding=(0, 1, 1, 0)))

    names = moved(lab, body)
    assert names == ["permute_dims", "nn.conv2d", "nn.relu", "add", "nn.conv2d", "nn.max_pool2d", "permute_dims"]


def test_weights_are_ohwi_whatever_they_were(lab) -> None:
    def body(b, x):
        w = b.const(3, 2, 4, 5)  # HWIO
        return b(op.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="HWIO"))

    new = lab.apply(PASSES, lab.module(body, (1, 7, 7, 4)))
    assert lab.ops(new) == ["nn.conv2d"]
    call = lab.bindings(new)[0][1]
    assert str(call.attrs.kernel_layout) == "OHWI"
    assert [int(d) for d in call.args[1].ty.shape] == [5, 3, 2, 4]


FOLLOWERS = {
    "constant of lower rank": lambda b, y: op.multiply(y, b.const(8, 6)),
    "scalar": lambda b, y: op.subtract(b.const(), y),
    "concat of channels": lambda b, y: op.concat([y, b(op.tanh(y))], 1),
    "concat of rows": lambda b, y: op.concat([y, y], -2),
    "pad": lambda b, y: op.nn.pad(y, [0, 0, 1, 2, 3, 0, 0, 1]),
    "slice": lambda b, y: op.strided_slice(y, [1, 3], [1, 0], [3, 6], [1, 2]),
    "mean of the map": lambda b, y: op.mean(y, [2, 3], keepdims=True),
    "maximum of channels": lambda b, y: op.max(y, [1], keepdims=True),
    "softmax of channels": lambda b, y: op.nn.softmax(y, 1),
    "prelu": lambda b, y: op.nn.prelu(y, b.const(4, low=0.0), 1),
    "average pool": lambda b, y: op.nn.avg_pool2d(y, (3, 2), (2, 2), (1, 0), count_include_pad=True),
    "adaptive pool": lambda b, y: op.nn.adaptive_avg_pool2d(y, (2, 2)),
    "resize": lambda b, y: op.image.resize2d(y, (16, 12), method="nearest_neighbor", rounding_method="floor"),
}


@pytest.mark.parametrize("name", FOLLOWERS)
def test_neighbours_follow_the_convolution(lab, name) -> None:
    names = moved(lab, lambda b, x: b.conv(b(FOLLOWERS[name](b, b.conv(x, 4, 1))), 3, 1))
    assert names[0] == "permute_dims" and "permute_dims" not in names[1:-1]
    assert names[-1] in ("permute_dims", "reshape")  # a reshape where the map is one pixel


def test_operators_before_the_first_convolution_follow_too(lab) -> None:
    def body(b, x):
        return b.conv(b(op.divide(b(op.subtract(x, b.const(1, 4, 1, 1))), b.const(1, 4, 1, 1, low=0.5))), 3)

    assert moved(lab, body) == ["permute_dims", "subtract", "divide", "nn.conv2d", "permute_dims"]


def test_gate_of_one_pixel_is_reshaped_not_permuted(lab) -> None:
    def body(b, x):
        y = b.conv(x, 4)
        pooled = b(op.reshape(b(op.mean(y, [2, 3], keepdims=True)), (1, 4)))
        gate = b(op.reshape(b(op.sigmoid(b(op.matmul(pooled, b.const(4, 4))))), (1, 4, 1, 1)))
        return b(op.multiply(y, gate))

    names = moved(lab, body)
    assert names.count("permute_dims") == 2 and names[-2] == "multiply"


def test_flatten_before_a_matmul_permutes_the_weights(lab) -> None:
    def body(b, x):
        flat = b(op.reshape(b.conv(x, 3), (2, 3 * 6 * 4)))
        scaled = b(op.multiply(b(op.nn.relu(flat)), b.const()))
        return b(op.add(b(op.matmul(scaled, b.const(72, 5))), b.const(5)))

    names = moved(lab, body, (2, 4, 8, 6))
    assert names == ["permute_dims", "nn.conv2d", "reshape", "nn.relu", "multiply", "matmul", "add"]


@pytest.mark.parametrize("also_returned", [True, False])
def test_flatten_for_anything_else_keeps_its_order(lab, also_returned) -> None:
    def body(b, x):
        flat = b(op.reshape(b.conv(x, 3), (1, 72)))
        y = b(op.matmul(flat, b.const(72, 5)))
        other = flat if also_returned else b(op.add(flat, b.const(1, 72)))
        return b(relax.Tuple([y, other]))

    assert moved(lab, body).count("permute_dims") == 2


def test_rows_of_a_transformer_come_without_permute(lab) -> None:
    def body(b, x):
        rows = b(op.permute_dims(b(op.reshape(b.conv(x, 5), (1, 5, 24))), [0, 2, 1]))
        return b(op.nn.layer_norm(rows, b.const(5), b.const(5), [-1]))

    assert moved(lab, body) == ["permute_dims", "nn.conv2d", "reshape", "nn.layer_norm"]


def test_rows_become_a_map_again(lab) -> None:
    def body(b, x):
        rows = b(op.nn.relu(b(op.reshape(b.conv(x, 5), (1, 5, 24)))))
        return b.conv(b(op.reshape(rows, (1, 5, 6, 4))), 2)

    assert moved(lab, body)[-2:] == ["nn.conv2d", "permute_dims"]


def test_operators_that_cannot_move_get_what_they_had(lab) -> None:
    def body(b, x):
        y = b(op.nn.group_norm(b.conv(x, 4), b.const(4), b.const(4), 2, 1, [2, 3]))
        return b.conv(y, 3)

    names = moved(lab, body)
    assert names == [
        "permute_dims",
        "nn.conv2d",
        "permute_dims",
        "nn.group_norm",
        "permute_dims",
        "nn.conv2d",
        "permute_dims",
    ]


def test_a_shared_input_is_permuted_once(lab) -> None:
    def body(b, x):
        return b(op.add(b.conv(x, 4, padding=1), b(op.nn.relu(b.conv(x, 4, 1)))))

    assert moved(lab, body).count("permute_dims") == 2


def test_models_without_nchw_operators_are_left_alone(lab) -> None:
    def body(b, x):
        y = b.conv_nhwc(x, 4, padding=1)
        y = b(op.mean(b(op.nn.max_pool2d(y, (2, 2), layout="NHWC")), [1, 2]))
        return b(op.nn.softmax(b(op.matmul(y, b.const(4, 3)))))

    names = moved(lab, body, (1, 6, 6, 3))
    assert "permute_dims" not in names


def test_a_convolution_with_computed_weights_is_left_alone(lab) -> None:
    names = moved(lab, lambda b, x, w: b(op.nn.conv2d(x, w)), MAPS, (3, 4, 2, 2))
    assert names == ["nn.conv2d"]
