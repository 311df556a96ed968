from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from mpq_testing.slowly import slow_but
from tvm_mpq.passes.normalize.fold_affine import FoldAffine

op = relax.op
MAPS = (1, 6, 6, 4)


def folded(lab, body, *shapes: tuple[int, ...]) -> list[str]:
    # The largest sum here has 3 * 3 * 4 terms; float32 keeps 1e-6 of the largest output.
    return lab.ops(lab.apply([FoldAffine()], lab.module(body, *shapes or (MAPS,)), tolerance=4e-6))


AFTER = {
    "multiply": lambda b, y: op.multiply(y, b.const(1, 1, 1, 8)),
    "multiply from the left": lambda b, y: op.multiply(b.const(8), y),
    "scalar": lambda b, y: op.multiply(y, b.const()),
    "divide": lambda b, y: op.divide(y, b.const(8, low=0.5)),
    "subtract": lambda b, y: op.subtract(y, b.const(8)),
    "subtract from a constant": lambda b, y: op.subtract(b.const(8), y),
}


@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("groups", slow_but([1, 2, 4], 1, 4))
def test_arithmetic_after_a_convolution_folds(lab, name, groups) -> None:
    def body(b, x):
        y = b(op.add(b.conv_nhwc(x, 8, padding=1, groups=groups), b.const(8)))
        return b(op.nn.relu(b(AFTER[name](b, y))))

    assert folded(lab, body) == ["nn.conv2d", "add", "nn.relu"]


def test_a_scale_alone_adds_no_bias(lab) -> None:
    assert folded(lab, lambda b, x: b(op.multiply(b.conv_nhwc(x, 8), b.const(8)))) == ["nn.conv2d"]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 1])
def test_arithmetic_before_folds_where_a_padded_border_allows_it(lab, groups, padding) -> None:
    def body(b, x):
        x = b(op.divide(b(op.subtract(x, b.const(4))), b.const(1, 1, 1, 4, low=0.5)))
        return b.conv_nhwc(x, 8, padding=padding, groups=groups)

    assert folded(lab, body) == (["subtract", "nn.conv2d"] if padding else ["nn.conv2d", "add"])


def test_a_matmul_takes_both_sides(lab) -> None:
    def body(b, x):
        x = b(op.add(b(op.multiply(x, b.const(6))), b.const(1)))
        return b(op.multiply(b(op.add(b(op.matmul(x, b.const(6, 5))), b.const(5))), b.const(1, 1, 5)))

    assert folded(lab, body, (2, 3, 6)) == ["matmul", "add"]


def test_bias_between_two_convolutions_goes_to_the_first(lab) -> None:
    def body(b, x):
        return b.conv_nhwc(b(op.add(b.conv_nhwc(x, 5, 1), b.const(5))), 3, padding=1)

    assert folded(lab, body) == ["nn.conv2d", "add", "nn.conv2d"]


def test_what_others_use_stays(lab) -> None:
    def body(b, x):
        y = b.conv_nhwc(x, 4, padding=1)
        scaled = b(op.multiply(y, b.const(4)))
        shared = b(op.multiply(x, b.const(4)))
        return b(op.add(b(op.add(scaled, y)), b(op.add(shared, b.conv_nhwc(shared, 4, padding=1)))))

    new = lab.apply([FoldAffine()], lab.module(body, MAPS))
    made = dict(lab.bindings(new))
    data = [made.get(v.args[0]) for v in made.values() if v.op.name == "relax.nn.conv2d"]
    assert lab.ops(new).count("multiply") == 2
    assert [d.op.name for d in data if d is not None] == ["relax.multiply"]


def test_constants_along_other_axes_stay(lab) -> None:
    names = folded(lab, lambda b, x: b(op.multiply(b.conv_nhwc(x, 4, padding=1), b.const(6, 1, 1))))
    assert names == ["nn.conv2d", "multiply"]


def test_a_constant_that_widens_the_result_stays(lab) -> None:
    assert folded(lab, lambda b, x: b(op.add(b.conv_nhwc(x, 1), b.const(8)))) == ["nn.conv2d", "add"]


def test_the_three_of_hard_sigmoid_is_no_bias(lab) -> None:
    def body(b, x):
        y = b(op.add(b.conv_nhwc(x, 4), relax.const(3.0, "float32")))
        return b(op.divide(b(op.clip(y, 0, 6)), relax.const(6.0, "float32")))

    new = lab.apply([FoldAffine()], lab.module(body, MAPS))
    assert lab.ops(new) == ["nn.conv2d", "add", "clip", "divide"]
    assert len(lab.bindings(new)[1][1].args[1].ty.shape) == 0  # still the scalar


def test_division_by_zero_is_not_folded(lab) -> None:
    mod = lab.module(lambda b, x: b(op.divide(b.conv_nhwc(x, 4), relax.const(0.0, "float32"))), MAPS)
    assert lab.ops(FoldAffine()(mod)) == ["nn.conv2d", "divide"]


def test_names_survive(lab) -> None:
    mod = lab.module(lambda b, x: b(op.nn.relu(b(op.multiply(b.conv_nhwc(x, 4, name="stem_conv"), b.const(4))))), MAPS)
    assert lab.bindings(FoldAffine()(mod))[0][0].name == "stem_conv"


def test_the_last_factor_of_an_activation_stays_in_front_of_a_matmul(lab) -> None:
    """x * (1 + erf(x / sqrt 2)) * 0.5, as exporters write gelu: taken apart, nobody would know it again."""

    def body(b, x):
        gate = b(op.add(b(op.erf(b(op.divide(x, relax.const(np.float32(2**0.5)))))), relax.const(np.float32(1))))
        gelu = b(op.multiply(b(op.multiply(x, gate)), relax.const(np.float32(0.5))))
        return b(op.matmul(gelu, b.const(4, 8)))

    assert folded(lab, body, (1, 5, 4)) == ["divide", "erf", "add", "multiply", "multiply", "matmul"]
