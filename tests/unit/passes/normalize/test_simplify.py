from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from tvm_mpq.passes.normalize.simplify import Simplify

op = relax.op
MAPS = (1, 4, 6, 6)


def simplified(lab, body, shape=MAPS) -> list[str]:
    return lab.ops(lab.apply([Simplify()], lab.module(body, shape)))


@pytest.mark.parametrize("scale, center", [(True, True), (False, True), (True, False)])
def test_batch_norm_becomes_scale_and_shift(lab, scale, center) -> None:
    def body(b, x):
        parameters = [b.const(4), b.const(4), b.const(4), b.const(4, low=0.1)]
        normed = b(op.nn.batch_norm(x, *parameters, axis=1, center=center, scale=scale, training=False))
        return b(relax.TupleGetItem(normed, 0))

    assert simplified(lab, body) == ["multiply", "add"]


def test_litter_of_importers_goes(lab) -> None:
    def body(b, x):
        pooled = b(op.nn.max_pool2d(x, (2, 2)))
        pair = b(relax.Tuple([pooled, b(op.zeros_like(pooled))]))
        dropped = b(op.nn.dropout(b(relax.TupleGetItem(pair, 0)), 0.5))
        return b(op.nn.relu(b(relax.TupleGetItem(dropped, 0))))

    mod = lab.module(body, MAPS)
    assert lab.ops(Simplify()(mod)) == ["nn.max_pool2d", "nn.relu"]  # stock TVM cannot run dropout, so no comparison


NOOPS = {
    "reshape": lambda x: op.reshape(x, MAPS),
    "permute": lambda x: op.permute_dims(x, [0, 1, 2, 3]),
    "cast": lambda x: op.astype(x, "float32"),
    "broadcast": lambda x: op.broadcast_to(x, MAPS),
    "slice": lambda x: op.strided_slice(x, [1], [0], [9223372036854775807], [1]),
    "pad": lambda x: op.nn.pad(x, [0] * 8),
}


@pytest.mark.parametrize("name", NOOPS)
def test_operators_that_do_nothing_go(lab, name) -> None:
    assert simplified(lab, lambda b, x: b(op.nn.relu(b(NOOPS[name](x))))) == ["nn.relu"]


def test_chains_of_reshapes_become_one(lab) -> None:
    def body(b, x):
        x = b(op.expand_dims(b(op.reshape(x, (4, 36))), [0]))
        return b(op.squeeze(b(op.expand_dims(b(op.reshape(x, (12, 12))), [1])), [1]))

    assert simplified(lab, body) == ["reshape"]


def test_permutes_compose_and_cancel(lab) -> None:
    def body(b, x):
        y = b(op.permute_dims(b(op.permute_dims(x, [0, 2, 3, 1])), [0, 3, 1, 2]))
        z = b(op.permute_dims(b(op.permute_dims(x, [0, 2, 3, 1])), [1, 0, 2, 3]))
        return b(relax.Tuple([b(op.nn.relu(y)), z]))

    assert sorted(simplified(lab, body)) == ["nn.relu", "permute_dims"]


@pytest.mark.parametrize("sections", [2, 3, [1, 3], [3]])
def test_split_becomes_slices(lab, sections) -> None:
    def body(b, x):
        parts = b(op.split(x, sections, axis=1))
        count = sections if isinstance(sections, int) else len(sections) + 1
        return b(relax.Tuple([b(op.nn.relu(b(relax.TupleGetItem(parts, i)))) for i in range(count)]))

    names = simplified(lab, body, (1, 6, 2, 2))
    assert "split" not in names and names.count("strided_slice") >= 2


@pytest.mark.parametrize("reduce", [op.mean, op.max])
def test_reduction_of_a_map_keeps_its_axes_until_a_reshape(lab, reduce) -> None:
    assert simplified(lab, lambda b, x: b(reduce(x, [2, 3]))) == [reduce.__name__, "reshape"]


def test_other_operators_are_left_alone(lab) -> None:
    def body(b, x):
        x = b(op.nn.softmax(b(op.mean(x, [1]))))
        return b(op.nn.pad(b(op.permute_dims(x, [0, 2, 1])), [0, 0, 1, 0, 0, 0]))

    assert simplified(lab, body) == ["mean", "nn.softmax", "permute_dims", "nn.pad"]


def test_batch_norm_with_computed_weights_stays(lab) -> None:
    def body(b, x, gamma):
        normed = b(op.nn.batch_norm(x, gamma, b.const(4), b.const(4), b.const(4, low=0.1), axis=1, training=False))
        return b(relax.TupleGetItem(normed, 0))

    mod = lab.module(body, MAPS, (4,))
    assert lab.ops(Simplify()(mod)) == ["nn.batch_norm", "TupleGetItem"]


def test_an_input_may_be_the_output(lab) -> None:
    new = lab.apply([Simplify()], lab.module(lambda b, x: b(op.reshape(x, MAPS)), MAPS))
    assert lab.ops(new) == []


def test_scale_is_computed_in_double_precision(lab) -> None:
    """1 / sqrt(variance + epsilon) in float32 would lose this epsilon beside this variance."""

    def body(b, x):
        variance = relax.const(np.full(4, 1e-9, "float32"))
        normed = b(
            op.nn.batch_norm(x, b.const(4), b.const(4), b.const(4), variance, axis=1, epsilon=1e-3, training=False)
        )
        return b(relax.TupleGetItem(normed, 0))

    assert simplified(lab, body) == ["multiply", "add"]


@pytest.mark.parametrize(("index", "axis"), [(0, 1), (2, 1), (5, -1), (5, 2)])
def test_a_pick_by_a_constant_becomes_a_slice(lab, index, axis) -> None:
    def body(b, x):
        return b(op.nn.relu(b(op.take(x, relax.const(np.int64(index)), axis))))

    assert simplified(lab, body) == ["strided_slice", "reshape", "nn.relu"]


def test_a_pick_by_several_or_unknown_indices_stays(lab) -> None:
    several = relax.const(np.array([0, 2], np.int64))
    assert simplified(lab, lambda b, x: b(op.nn.relu(b(op.take(x, several, 1))))) == ["take", "nn.relu"]
