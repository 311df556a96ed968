from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.passes.normalize.fuse_operators import FuseOperators
from tvm_mpq.schema import AddWorkload, ConcatWorkload, Conv2dWorkload, CopyWorkload, MultiplyWorkload, Pool2dWorkload

op = relax.op
MAPS = (1, 6, 8, 4)


def fused(lab, body, *shapes: tuple[int, ...]):
    new = lab.apply([FuseOperators()], lab.module(body, *shapes or (MAPS,)))
    return lab.ops(new), lab.attrs(new)


def operands(lab, mod, i: int = 0) -> list[relax.Expr]:
    return list(lab.bindings(mod)[i][1].args)


def test_convolution_with_all_it_can_hold(lab) -> None:
    def body(b, x, r):
        y = b.conv_nhwc(x, 6, name="layer1_conv", padding=(0, 1, 2, 1), strides=(2, 1), groups=2, dilation=(1, 2))
        return b(op.nn.relu(b(op.add(r, b(op.add(b.const(6), y))))))

    mod = lab.module(body, MAPS, (1, 3, 6, 6))
    new = lab.apply([FuseOperators()], mod)
    assert lab.ops(new) == ["conv2d"]
    work = Conv2dWorkload(1, 6, 8, 4, 6, (3, 3), (2, 1), (0, 1, 2, 1), (1, 2), 2, True, "relu")
    assert lab.attrs(new) == {"layer1_conv": {"kind": "conv2d", "activation": "relu", "workload": work}}
    data, residual, weight, bias = operands(lab, new)
    assert [data, residual] == list(mod["main"].params)
    assert weight.value.numpy().shape == (6, 3, 3, 2) and bias.value.numpy().shape == (6,)


def test_convolution_alone_has_a_bias_of_zeros(lab) -> None:
    new = lab.apply([FuseOperators()], lab.module(lambda b, x: b.conv_nhwc(x, 5), MAPS))
    bias = operands(lab, new)[2]
    np.testing.assert_array_equal(bias.value.numpy(), np.zeros(5, "float32"))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_linear_layer_of_any_rank(lab, shape) -> None:
    def body(b, x):
        return b(op.nn.gelu(b(op.add(x, b(op.add(b(op.matmul(x, b.const(4, 4)), "fc"), b.const(4)))))))

    new = lab.apply([FuseOperators()], lab.module(body, shape))
    rows = int(np.prod(shape[:-1]))
    work = Conv2dWorkload(1, 1, rows, 4, 4, (1, 1), residual=True, activation="gelu")
    assert lab.attrs(new) == {"fc": {"kind": "linear", "activation": "gelu", "workload": work}}


def test_linear_weights_are_output_by_input(lab) -> None:
    new = lab.apply([FuseOperators()], lab.module(lambda b, x: b(op.matmul(x, b.const(4, 9))), (3, 4)))
    assert operands(lab, new)[1].value.numpy().shape == (9, 4)


def test_of_two_convolutions_the_later_takes_the_residual(lab) -> None:
    def body(b, x):
        first, second = b.conv_nhwc(x, 4, name="first"), b.conv_nhwc(x, 4, name="second")
        return b(op.nn.relu(b(op.add(second, first))))

    ops, attrs = fused(lab, body)
    assert ops == ["conv2d", "conv2d"]
    assert not attrs["first"]["workload"].residual and attrs["second"]["workload"].residual
    assert attrs["second"]["activation"] == "relu"


def test_a_residual_that_is_computed_later_makes_no_cycle(lab) -> None:
    def body(b, x):
        y = b.conv_nhwc(x, 4, padding=1, name="first")
        late = b(op.tanh(b.conv_nhwc(b(op.nn.softmax(x)), 4, padding=1, name="late")))
        return b(op.add(y, late))

    ops, attrs = fused(lab, body)
    assert ops == ["nn.softmax", "conv2d", "conv2d"]
    assert attrs["first"]["workload"].residual and attrs["late"]["activation"] == "tanh"


def test_what_is_used_twice_is_not_swallowed(lab) -> None:
    def body(b, x):
        y = b.conv_nhwc(x, 4, padding=1)
        z = b(op.add(y, x))
        return b(relax.Tuple([b(op.nn.relu(z)), b(op.tanh(y)), b(op.add(z, z))]))

    ops, attrs = fused(lab, body)
    assert sorted(ops) == ["activation", "activation", "add", "add", "conv2d"]
    assert all(a["activation"] == "none" for a in attrs.values() if a["kind"] in ("conv2d", "add"))


def test_an_output_in_the_middle_of_a_chain_stays_visible(lab) -> None:
    def body(b, x):
        y = b.conv_nhwc(x, 4)
        return b(relax.Tuple([y, b(op.nn.relu(y))]))

    assert fused(lab, body)[0] == ["conv2d", "activation"]


WEIGHTLESS = {
    "max pool": (
        lambda b, x: op.nn.max_pool2d(x, (3, 2), (2, 1), (0, 1, 1, 0), layout="NHWC"),
        Pool2dWorkload("max", 1, 6, 8, 4, (3, 2), (2, 1), (0, 1, 1, 0), 3, 8),
    ),
    "max pool rounded up": (
        lambda b, x: op.nn.max_pool2d(x, (3, 3), (2, 2), ceil_mode=True, layout="NHWC"),
        Pool2dWorkload("max", 1, 6, 8, 4, (3, 3), (2, 2), (0, 0, 0, 0), 3, 4),
    ),
    "average that counts padding": (
        lambda b, x: op.nn.avg_pool2d(x, (2, 2), (2, 2), (1, 1, 1, 1), count_include_pad=True, layout="NHWC"),
        Pool2dWorkload("avg", 1, 6, 8, 4, (2, 2), (2, 2), (1, 1, 1, 1), 4, 5),
    ),
    "average that does not": (
        lambda b, x: op.nn.avg_pool2d(x, (2, 2), (2, 2), (1, 1, 1, 1), layout="NHWC"),
        Pool2dWorkload("avg_valid", 1, 6, 8, 4, (2, 2), (2, 2), (1, 1, 1, 1), 4, 5),
    ),
    "average rounded up": (
        lambda b, x: op.nn.avg_pool2d(x, (3, 3), (2, 2), ceil_mode=True, layout="NHWC"),
        Pool2dWorkload("avg_valid", 1, 6, 8, 4, (3, 3), (2, 2), (0, 0, 0, 0), 3, 4),
    ),
    "mean of the map": (
        lambda b, x: op.mean(x, [1, 2], keepdims=True),
        Pool2dWorkload("avg", 1, 6, 8, 4, (6, 8), (6, 8), (0, 0, 0, 0), 1, 1),
    ),
    "maximum of the map": (
        lambda b, x: op.max(x, [2, 1], keepdims=True),
        Pool2dWorkload("max", 1, 6, 8, 4, (6, 8), (6, 8), (0, 0, 0, 0), 1, 1),
    ),
    "adaptive pool": (
        lambda b, x: op.nn.adaptive_avg_pool2d(x, (3, 2), "NHWC"),
        Pool2dWorkload("avg", 1, 6, 8, 4, (2, 4), (2, 4), (0, 0, 0, 0), 3, 2),
    ),
    "add": (lambda b, x: op.add(x, b(op.negative(x))), AddWorkload(MAPS)),
    "multiply": (lambda b, x: op.multiply(b(op.negative(x)), x), MultiplyWorkload(MAPS, False)),
    "gate": (lambda b, x: op.multiply(b(op.min(x, [1, 2], keepdims=True)), x), MultiplyWorkload(MAPS, True)),
    "concat": (lambda b, x: op.concat([x, b(op.negative(x)), x], -1), ConcatWorkload(48, (4, 4, 4))),
    "slice": (
        lambda b, x: op.strided_slice(x, [1, 3], [1, 2], [9, 4], [2, 1]),
        CopyWorkload(MAPS, (1, 3, 8, 2), (0, 1, 0, 2), (1, 2, 1, 1), (1, 3, 8, 2), (0, 0, 0, 0)),
    ),
    "pad": (
        lambda b, x: op.nn.pad(x, [0, 0, 1, 2, 0, 0, 3, 0]),
        CopyWorkload(MAPS, (1, 9, 8, 7), (0, 0, 0, 0), (1, 1, 1, 1), MAPS, (0, 1, 0, 3)),
    ),
    "slice and pad": (
        lambda b, x: op.nn.pad(b(op.strided_slice(x, [1, 2], [0, 0], [6, 8], [2, 2])), [0, 0, 0, 0, 0, 0, 2, 2]),
        CopyWorkload(MAPS, (1, 3, 4, 8), (0, 0, 0, 0), (1, 2, 2, 1), (1, 3, 4, 4), (0, 0, 0, 2)),
    ),
}


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_weightless_operators(lab, name) -> None:
    build, workload = WEIGHTLESS[name]
    _, attrs = fused(lab, lambda b, x: b(build(b, x)))
    assert [a["workload"] for a in attrs.values()] == [workload]


@pytest.mark.parametrize("operator", [op.add, op.multiply])
def test_add_and_multiply_hold_an_activation(lab, operator) -> None:
    ops, attrs = fused(lab, lambda b, x, y: b(op.clip(b(operator(x, y)), 0, 6)), MAPS, MAPS)
    assert len(ops) == 1
    (only,) = attrs.values()
    assert only["activation"] == only["workload"].activation == "clip:0.0:6.0"


def test_reshape_between_composites_only(lab) -> None:
    def body(b, x):
        pooled = b(op.reshape(b(op.mean(x, [1, 2], keepdims=True)), (1, 4)))
        odd = b(op.reshape(b(op.nn.softmax(x)), (48, 4)))
        return b(relax.Tuple([b(op.matmul(pooled, b.const(4, 3))), b(op.nn.softmax(odd))]))

    ops, attrs = fused(lab, body)
    assert [a["kind"] for a in attrs.values()].count("reshape") == 1 and "reshape" in ops
    assert sorted(ops) == ["avg_pool2d", "linear", "nn.softmax", "nn.softmax", "reshape", "reshape"]


@pytest.mark.parametrize("channels, kind", [(32, "reshape"), (8, None)])
def test_flattening_a_map_is_a_reshape_where_channels_need_no_padding(lab, channels, kind) -> None:
    def body(b, x):
        return b(op.matmul(b(op.reshape(x, (1, 4 * channels))), b.const(4 * channels, 3)))

    _, attrs = fused(lab, body, (1, 2, 2, channels))
    assert ("reshape" in [a["kind"] for a in attrs.values()]) == (kind is not None)


LEFT = {
    "softmax": lambda b, x: op.nn.softmax(x),
    "matmul of two activations": lambda b, x: op.matmul(x, b(op.permute_dims(x, [0, 1, 3, 2]))),
    "add of a constant": lambda b, x: op.add(x, b.const(4)),
    "add that broadcasts": lambda b, x: op.add(x, b(op.min(x, [1], keepdims=True))),
    "concat of rows": lambda b, x: op.concat([x, x], 1),
    "concat with a constant": lambda b, x: op.concat([x, b.const(1, 6, 8, 2)], 3),
    "pad with ones": lambda b, x: op.nn.pad(x, [0, 0, 1, 1, 0, 0, 0, 0], "constant", 1.0),
    "dilated pool": lambda b, x: op.nn.max_pool2d(x, (2, 2), dilation=(2, 2), layout="NHWC"),
    "average that counts what ceil_mode adds": lambda b, x: op.nn.avg_pool2d(
        x, (3, 3), (2, 2), ceil_mode=True, count_include_pad=True, layout="NHWC"
    ),
    "pool in NCHW": lambda b, x: op.nn.max_pool2d(x, (2, 2)),
    "adaptive pool to no divisor": lambda b, x: op.nn.adaptive_avg_pool2d(x, (4, 3), "NHWC"),
}


@pytest.mark.parametrize("name", LEFT)
def test_everything_else_is_left_alone(lab, name) -> None:
    _, attrs = fused(lab, lambda b, x: b(LEFT[name](b, x)))
    assert attrs == {}


def test_half_precision_is_left_alone(lab) -> None:
    mod = lab.module(lambda b, x: b(op.nn.relu(b(op.add(x, x)))), MAPS, dtype="float16")
    assert lab.ops(lab.apply([FuseOperators()], mod)) == ["add", "nn.relu"]


def test_names_come_from_the_importer_or_are_counted(lab) -> None:
    def body(b, x):
        x = b.conv_nhwc(x, 4, 1, name="lv7")
        x = b.conv_nhwc(x, 4, 1, name="conv2d_1")
        x = b.conv_nhwc(x, 4, 1, name="block/0 conv")
        x = b(op.nn.max_pool2d(x, (2, 2), layout="NHWC"))
        return b(op.tanh(x))

    new = lab.apply([FuseOperators()], lab.module(body, MAPS))
    assert [v.name for v, _ in lab.bindings(new)] == [
        "conv2d_2",
        "conv2d_1",
        "block_0_conv",
        "max_pool2d_1",
        "activation_1",
    ]
    assert {g.name_hint for g in new.get_global_vars()} >= {"main", "mpq_conv2d_2", "mpq_block_0_conv"}


def test_equal_names_are_told_apart(lab) -> None:
    def make(b, x):
        return b.conv_nhwc(x, 4, 1)

    def body(b, x):
        return make(b, b(op.nn.softmax(make(b, x))))

    mod = lab.module(body, MAPS)
    _, attrs = fused(lab, body)
    assert set(attrs) == {"conv2d_1", "conv2d_2"}
    assert set(lab.attrs(FuseOperators()(mod))) == {"conv2d_1", "conv2d_2"}


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_not_finite_is_refused_by_its_operator(lab, bad) -> None:
    weight = np.ones((4, 9), np.float32)
    weight[3, 1] = bad
    what = "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(UnsupportedModelError, match=f"{what} in those of operator 'fc', 1 of 36 values"):
        fused(lab, lambda b, x: b(op.matmul(x, relax.const(weight)), "fc"), (3, 4))


MASK = np.where(np.tri(3, 4), np.float32(0), np.float32(-np.inf))
MASKS = {
    "looked up": lambda b, x: b(op.take(relax.const(MASK), relax.const(np.int64([2, 0, 1])), 0)),
    "chosen": lambda b, x: b(op.where(b(op.greater(x, relax.const(np.float32(0)))), x, relax.const(MASK))),
    "on a view": lambda b, x: b(op.reshape(b(op.add(b(op.tanh(x)), relax.const(MASK))), (3, 4))),
}


@pytest.mark.parametrize("mask", MASKS)
def test_no_integer_operator_reads_or_makes_a_mask_of_infinities(lab, mask) -> None:
    """The sum of a layer and a mask, which would be its residual, and of two activations, and what follows."""

    def body(b, x):
        m = MASKS[mask](b, x)
        y = b(op.add(b(op.matmul(x, b.const(4, 4)), "fc"), m))
        return b(relax.Tuple([b(op.nn.softmax(b(op.nn.silu(y)))), b(op.add(m, x))]))

    ops, attrs = fused(lab, body, (3, 4))
    assert not attrs["fc"]["workload"].residual
    kinds = {a["kind"] for name, a in attrs.items() if name != "fc"}
    assert kinds <= {"activation"} and ops.count("add") >= 2
    assert all(a["activation"] != "silu" for a in attrs.values())


def test_a_bias_of_infinities_stays_a_sum_of_its_own(lab) -> None:
    """Words that a classifier shall never choose."""
    bias = relax.const(np.float32([0, -np.inf, 1, 2]))
    ops, attrs = fused(lab, lambda b, x: b(op.add(b(op.matmul(x, b.const(4, 4)), "fc"), bias)), (3, 4))
    assert ops == ["linear", "add"] and set(attrs) == {"fc"}
