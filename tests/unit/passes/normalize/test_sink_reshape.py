from __future__ import annotations

from tvm import relax

from tvm_mpq.passes.normalize.simplify import Simplify
from tvm_mpq.passes.normalize.sink_reshape import SinkReshape

op = relax.op
ROWS = (2, 5, 6)


def sunk(lab, body, *shapes: tuple[int, ...]) -> list[str]:
    return lab.ops(lab.apply([SinkReshape(), Simplify()], lab.module(body, *shapes or (ROWS,))))


def test_flattening_around_a_linear_layer_cancels(lab) -> None:
    def body(b, x):
        flat = b(op.reshape(x, (10, 6)))
        y = b(op.nn.gelu(b(op.add(b.const(8), b(op.matmul(flat, b.const(6, 8)))))))
        return b(op.add(x, b(op.matmul(b(op.reshape(y, ROWS[:2] + (8,))), b.const(8, 6)))))

    assert sunk(lab, body) == ["matmul", "add", "nn.gelu", "matmul", "add"]


def test_a_reshape_behind_a_layer_moves_before_it(lab) -> None:
    def body(b, x, y):
        rows = b(op.reshape(x, (10, 6)))  # changes the last axis, so it cannot sink
        return b(op.add(y, b(op.reshape(b(op.add(b(op.matmul(rows, b.const(6, 4))), b.const(4))), (2, 5, 4)))))

    assert sunk(lab, body, (10, 2, 3), (2, 5, 4)) == ["reshape", "matmul", "add", "add"]


def test_a_classifier_keeps_its_flat_input(lab) -> None:
    def body(b, x):
        return b(op.matmul(b(op.reshape(x, (2, 6))), b.const(6, 3)))

    assert sunk(lab, body, (2, 1, 1, 6)) == ["reshape", "matmul"]


def test_reshapes_of_float_operators_are_left_alone(lab) -> None:
    def body(b, x, y):
        x = b(op.multiply(b(op.reshape(x, (10, 6))), b.const()))
        heads = b(op.reshape(y, (10, 6)))  # 6 is not y's last axis
        return b(relax.Tuple([b(op.nn.softmax(x)), b(op.matmul(heads, b.const(6, 4)))]))

    names = sunk(lab, body, ROWS, (10, 3, 2))
    assert sorted(names) == ["matmul", "multiply", "nn.softmax", "reshape", "reshape"]
