from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from tvm_mpq.passes.normalize.fold_constants import FoldConstants, constant_calls_left

op = relax.op
CASES = {
    "permute": lambda c: op.permute_dims(c, [1, 0]),
    "permute without axes": lambda c: op.permute_dims(c),
    "reshape": lambda c: op.reshape(c, (2, 2, 3)),
    "expand": lambda c: op.expand_dims(c, [0, 2]),
    "broadcast": lambda c: op.broadcast_to(c, (2, 4, 3)),
    "slice": lambda c: op.strided_slice(c, [0], [1], [9223372036854775807], [2]),
    "slice from the end": lambda c: op.strided_slice(c, [1], [-2], [-1]),
    "concat": lambda c: op.concat([c, c], 1),
    "take": lambda c: op.take(c, relax.const(np.array([2, 0], "int64")), axis=0),
    "sum": lambda c: op.add(c, relax.const(2.0, "float32")),
    "quotient": lambda c: op.divide(c, relax.const(3.0, "float32")),
    "root": lambda c: op.sqrt(op.abs(c)),
    "where": lambda c: op.where(op.isnan(c), relax.const(0.0, "float32"), c),
    "zeros": lambda c: op.add(c, op.zeros((4, 3), "float32")),
    "full": lambda c: op.multiply(c, op.full((4, 3), relax.const(2.0, "float32"))),
    "power": lambda c: op.power(c, relax.const(2.0, "float32")),
    "cast": lambda c: op.astype(op.astype(c, "int32"), "float32"),
}


@pytest.mark.parametrize("name", CASES)
def test_numpy_computes_what_tvm_computes(lab, name) -> None:
    def body(b, x):
        return b(op.add(x, b(CASES[name](b.const(4, 3, low=-9, high=9)))))

    shape = {"permute": (3, 4), "permute without axes": (3, 4), "reshape": (2, 2, 3), "expand": (1, 4, 1, 3)}
    shape |= {"broadcast": (2, 4, 3), "slice": (2, 3), "slice from the end": (4, 1), "concat": (4, 6), "take": (2, 3)}
    mod = lab.module(body, shape.get(name, (4, 3)))
    new = lab.apply([FoldConstants()], mod)
    assert lab.ops(new) == ["add"]
    assert not constant_calls_left(new)


def test_dequantize_of_weights_per_channel(lab) -> None:
    def body(b, x):
        q = relax.const(b.rng.integers(-128, 128, (2, 3, 4)).astype("int8"))
        zero = relax.const(np.array([1, -2, 3], "int32"))
        return b(op.add(x, b(op.dequantize(q, b.const(3, low=0.1), zero, axis=1))))

    assert lab.ops(lab.apply([FoldConstants()], lab.module(body, (2, 3, 4)))) == ["add"]


def test_what_it_does_not_know_and_what_is_not_constant_stays(lab) -> None:
    mod = lab.module(lambda b, x: b(op.multiply(b(op.exp(x)), b(op.cumsum(b.const(3, 2), axis=0)))), (3, 2))
    new = lab.apply([FoldConstants()], mod)
    assert lab.ops(new) == ["exp", "cumsum", "multiply"]
    assert constant_calls_left(new)


def test_integer_division_is_left_to_tvm(lab) -> None:
    seven, two = relax.const(np.array([-7, 7], "int32")), relax.const(np.array([2, 2], "int32"))
    mod = lab.module(lambda b, x: b(op.add(x, b(op.divide(seven, two)))), (2,), dtype="int32")
    assert lab.ops(lab.apply([FoldConstants()], mod)) == ["divide", "add"]
