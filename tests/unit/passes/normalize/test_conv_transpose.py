"""Transposed convolutions on their way to composites with input dilation: ChannelsLast, FoldAffine, FuseOperators."""

from __future__ import annotations

import pytest
from tvm import relax

from tvm_mpq.passes.normalize import Normalize, conv_transpose
from tvm_mpq.passes.normalize.channels_last import ChannelsLast
from tvm_mpq.passes.normalize.conv1d_as_conv2d import Conv1dAsConv2d
from tvm_mpq.passes.normalize.simplify import Simplify

op = relax.op
PASSES = [Conv1dAsConv2d(), ChannelsLast(), Simplify()]
MAPS = (2, 8, 5, 4)
LINE = (2, 8, 6)


def transposed(b, x, out: int, kernel: tuple[int, ...], **attrs) -> relax.Var:
    """NCHW or NCW; `out` channels in all groups together."""
    weight = b.const(int(x.ty.shape[1]), out // attrs.get("groups", 1), *kernel)
    build = op.nn.conv1d_transpose if len(kernel) == 1 else op.nn.conv2d_transpose
    return b(build(x, weight, **attrs))


def only_workload(lab, new):
    (found,) = lab.attrs(new).values()
    return found["workload"]


CASES = {  # kernel, attributes, padding that the convolution has
    "k2s2": ((2, 2), {"strides": (2, 2)}, (1, 1, 1, 1)),
    "k4s2p1": ((4, 4), {"strides": (2, 2), "padding": (1, 1)}, (2, 2, 2, 2)),
    "k3s2p1 and output padding": (
        (3, 3),
        {"strides": (2, 2), "padding": (1, 1), "output_padding": (1, 1)},
        (1, 1, 2, 2),
    ),
    "padding of one side": ((3, 4), {"strides": (3, 2), "padding": (0, 1, 2, 3)}, (2, 2, 0, 0)),
    "groups": ((3, 3), {"strides": (2, 2), "groups": 2}, (2, 2, 2, 2)),
    "depthwise": ((3, 3), {"strides": (2, 2), "groups": 8}, (2, 2, 2, 2)),
    "one axis": ((1, 2), {"strides": (1, 2)}, (0, 1, 0, 1)),
    "kernel shorter than its stride": ((1, 1), {"strides": (3, 2), "output_padding": (2, 1)}, (0, 0, 2, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_transposed_convolution_is_one_with_input_dilation(lab, name) -> None:
    kernel, attrs, padding = CASES[name]
    mod = lab.module(lambda b, x: transposed(b, x, 8, kernel, **attrs), MAPS)
    new = lab.apply([Normalize()], mod)
    assert lab.ops(new) == ["permute_dims", "conv2d", "permute_dims"]
    workload = only_workload(lab, new)
    assert (workload.kernel, workload.stride, workload.input_dilation) == (kernel, (1, 1), attrs["strides"])
    assert workload.padding == padding and workload.groups == attrs.get("groups", 1)
    assert (workload.in_height, workload.in_width) == MAPS[2:]
    shape = mod["main"].ret_ty.shape.values
    assert (workload.out_height, workload.out_width) == tuple(int(d) for d in shape)[2:]


def test_stride_1_is_a_plain_convolution(lab) -> None:
    attrs = {"padding": (1, 0), "dilation": (1, 2), "groups": 2}
    names = lab.ops(lab.apply(PASSES, lab.module(lambda b, x: transposed(b, x, 4, (3, 3), **attrs), MAPS)))
    assert names == ["permute_dims", "nn.conv2d", "permute_dims"]


def test_what_has_no_kernel_stays_a_float_operator(lab) -> None:
    """A dilated kernel over a dilated input; taps of one phase are then no neighbours."""
    mod = lab.module(lambda b, x: transposed(b, x, 8, (2, 2), strides=(2, 2), dilation=(2, 1)), MAPS)
    assert lab.ops(lab.apply(PASSES, mod)) == ["nn.conv2d_transpose"]


def test_a_dilated_kernel_would_be_written_right(lab, monkeypatch) -> None:
    monkeypatch.setattr(conv_transpose, "has_kernel", lambda workload: True)
    mod = lab.module(lambda b, x: transposed(b, x, 8, (3, 2), strides=(2, 3), dilation=(2, 3)), MAPS)
    assert only_workload(lab, lab.apply([Normalize()], mod)).padding == (4, 3, 4, 3)


@pytest.mark.parametrize("layout", ["IOHW", "OIHW", "HWIO"])
def test_weights_whatever_their_order(lab, layout) -> None:
    sizes = dict(zip("IOHW", (8, 5, 2, 3), strict=True))

    def body(b, x):
        weight = b.const(*(sizes[letter] for letter in "IOHW"))
        weight = b(op.permute_dims(weight, ["IOHW".index(letter) for letter in layout]))
        return b(op.nn.conv2d_transpose(x, weight, (2, 2), kernel_layout=layout))

    mod = Simplify()(lab.module(body, MAPS))
    new = Normalize()(mod)
    workload = only_workload(lab, new)
    assert (workload.out_channels, workload.kernel) == (5, (2, 3))
    plain = lab.module(lambda b, x: b(op.nn.conv2d_transpose(x, weight_of(mod, layout), (2, 2))), MAPS)
    inputs = lab.inputs(mod)  # TVM itself compiles IOHW only
    for want, got in zip(lab.run(plain, inputs), lab.run(new, inputs), strict=True):
        assert abs(got - want).max() < 1e-5


def weight_of(mod, layout: str) -> relax.Expr:
    (call,) = (b.value for b in mod["main"].body.blocks[0].bindings if isinstance(b.value, relax.Call))
    array = call.args[1].value.numpy().transpose([layout.index(letter) for letter in "IOHW"])
    return relax.const(array.copy())


def test_norm_bias_residual_and_activation_are_taken_along(lab) -> None:
    def body(b, x, skip):
        y = b(op.add(transposed(b, x, 8, (2, 2), strides=(2, 2), groups=2), b.const(1, 8, 1, 1)))
        norm = op.nn.batch_norm(y, b.const(8), b.const(8), b.const(8), b.const(8, low=0.5), 1, training=False)
        y = b(op.add(b(relax.TupleGetItem(b(norm), 0)), skip))
        return b(op.nn.relu(y))

    new = lab.apply([Normalize()], lab.module(body, MAPS, (2, 8, 10, 8)))
    assert lab.ops(new) == ["permute_dims", "permute_dims", "conv2d", "permute_dims"]
    (found,) = lab.attrs(new).values()
    assert found["activation"] == "relu" and found["workload"].residual


def test_between_convolutions_nothing_moves(lab) -> None:
    """An encoder and decoder with a skip connection."""

    def body(b, x):
        first = b(op.nn.relu(b.conv(x, 16, padding=1)))
        deep = b(op.nn.relu(b.conv(first, 16, 2, strides=(2, 2))))
        up = transposed(b, deep, 16, (2, 2), strides=(2, 2))
        return b.conv(b(op.concat([b(op.nn.relu(up)), first], 1)), 3, 1)

    new = lab.apply([Normalize()], lab.module(body, (1, 3, 8, 6)))
    assert lab.ops(new) == ["permute_dims", "conv2d", "conv2d", "conv2d", "concat", "conv2d", "permute_dims"]


def test_in_a_network_that_is_channels_last(lab) -> None:
    """TFLite's are imported between two permutes, which cancel with those of ChannelsLast."""

    def body(b, x):
        y = b(op.permute_dims(b.conv_nhwc(x, 8, 3), (0, 3, 1, 2)))
        y = b(op.permute_dims(transposed(b, y, 4, (2, 2), strides=(2, 2)), (0, 2, 3, 1)))
        return b.conv_nhwc(b(op.nn.relu(b(op.add(y, b.const(4))))), 3, 1)

    assert lab.ops(lab.apply([Normalize()], lab.module(body, (1, 6, 6, 3)))) == ["conv2d", "conv2d", "conv2d"]


def test_behind_a_linear_layer(lab) -> None:
    """As generators begin: the reshape to a map does not merge with the zeros between its elements."""

    def body(b, x):
        y = b(op.nn.relu(b(op.matmul(x, b.const(6, 8)))))
        y = transposed(b, b(op.reshape(y, (2, 8, 1, 1))), 16, (4, 4), strides=(2, 2))
        return transposed(b, b(op.nn.relu(y)), 3, (4, 4), strides=(2, 2), padding=(1, 1))

    new = lab.apply([Normalize()], lab.module(body, (2, 6)))
    assert [name for name in lab.ops(new) if name not in ("reshape", "permute_dims")] == ["linear", "conv2d", "conv2d"]
    assert len(new.functions) == 1 + len(lab.attrs(new))  # the functions of the zeros are gone


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": 2},
        {"strides": 3, "padding": (2, 1), "output_padding": 1},
        {"strides": 2, "groups": 4},
        {},
    ],
)
def test_one_dimension(lab, attrs) -> None:
    new = lab.apply([Normalize()], lab.module(lambda b, x: transposed(b, x, 8, (3,), **attrs), LINE))
    assert lab.ops(new) == ["permute_dims", "reshape", "conv2d", "reshape", "permute_dims"]
    workload = next(a["workload"] for a in lab.attrs(new).values() if a["workload"] is not None)
    assert (workload.in_height, workload.kernel) == (1, (1, 3))
    assert workload.input_dilation == (1, attrs.get("strides", 1))


def test_computed_weights_and_padding_beyond_the_kernel_stay(lab) -> None:
    computed = lab.module(lambda b, x, w: b(op.nn.conv2d_transpose(x, w, (2, 2))), MAPS, (8, 3, 2, 2))
    assert lab.ops(lab.apply(PASSES, computed)) == ["nn.conv2d_transpose"]
    beyond = lab.module(lambda b, x: transposed(b, x, 4, (1, 1), strides=(2, 2), padding=(1, 1)), MAPS)
    assert lab.ops(lab.apply(PASSES, beyond)) == ["nn.conv2d_transpose"]
