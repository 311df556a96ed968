from __future__ import annotations

import pytest
from tvm import relax, te, topi

from tvm_mpq.passes.normalize.lift_helpers import LiftHelpers


@pytest.mark.parametrize("before, after", [([0, 1, 2, 0], [0, 0, 1, 3]), ([0, 0, 0, 0], [0, 0, 1, 1])])
def test_padding_in_loops_becomes_the_operator(lab, before, after) -> None:
    mod = lab.module(lambda b, x: b.builder.emit_te(topi.nn.pad, x, before, after, 0.5), (1, 2, 3, 4))
    new = lab.apply([LiftHelpers()], mod)
    assert lab.ops(new) == ["nn.pad"]
    attrs = lab.bindings(new)[0][1].attrs
    assert [int(w) for w in attrs.pad_width] == [w for p in zip(before, after, strict=True) for w in p]
    assert float(attrs.pad_value) == 0.5


@pytest.mark.parametrize("function, name", [(topi.maximum, "maximum"), (topi.minimum, "minimum")])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_bounds_in_loops_become_operators(lab, function, name, as_tensor) -> None:
    bound = relax.const(0.25, "float32") if as_tensor else 0.25
    mod = lab.module(lambda b, x: b.builder.emit_te(function, x, bound), (2, 5))
    assert lab.ops(lab.apply([LiftHelpers()], mod)) == [name]


def _padded_by_value(x: te.Tensor) -> te.Tensor:
    """Looks like padding, and repeats the first row instead of filling with a constant."""
    return te.compute((4, 3), lambda i, j: te.if_then_else(i >= 1, x[i - 1, j], x[0, j]))


@pytest.mark.parametrize("function", [_padded_by_value, topi.tanh, lambda x: topi.nn.mirror_pad(x, [1, 0], [0, 0])])
def test_other_loops_are_left_alone(lab, function) -> None:
    mod = lab.module(lambda b, x: b.builder.emit_te(function, x), (3, 3))
    assert lab.ops(lab.apply([LiftHelpers()], mod)) == ["call_tir"]
