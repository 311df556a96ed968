"""Attention becomes one composite on what its operands are cut from, whichever way importers write it."""

from __future__ import annotations

import pytest
from tvm import relax

from tvm_mpq.passes.normalize import Normalize
from tvm_mpq.schema import AttentionWorkload

op = relax.op
TOKENS, HEADS, DEPTH = 7, 3, 8
WIDTH = HEADS * DEPTH


def cut(b, x, batch):
    """q, k [..., feature, key] and v from [batch, token, 3 * width], by four axes."""
    split = b(op.permute_dims(b(op.reshape(x, (batch, TOKENS, 3, HEADS, DEPTH))), (2, 0, 3, 1, 4)))
    q, k, v = (b(op.squeeze(b(op.strided_slice(split, [0], [i], [i + 1])), [0])) for i in range(3))
    return q, b(op.permute_dims(k, (0, 1, 3, 2))), v


def written(b, x, *, batch=1, joined_axes=False, mask=False, shared=False, join=True):
    """joined_axes: products of three axes with reshapes around them, as torch exports `bmm`."""

    def outer(y, *lead):
        return b(op.reshape(y, (*lead, *[int(d) for d in y.ty.shape][-2:]))) if joined_axes else y

    q, k, v = cut(b, x, batch)
    q = b(op.multiply(q, relax.const(0.25, "float32")))
    q, k, v = (outer(y, batch * HEADS) for y in (q, k, v))
    scores = outer(b(op.matmul(q, k)), batch, HEADS)
    if mask:
        scores = b(op.add(scores, b.const(TOKENS, TOKENS)))
    weights = b(op.nn.softmax(scores))
    y = outer(b(op.matmul(outer(weights, batch * HEADS), v)), batch, HEADS)
    if not join:
        return y
    y = b(op.reshape(b(op.permute_dims(y, (0, 2, 1, 3))), (batch, TOKENS, WIDTH)))
    return b(op.add(y, b(op.mean(weights)))) if shared else y


@pytest.mark.parametrize(("batch", "joined_axes"), [(1, False), (2, False), (1, True)])
def test_one_composite(lab, batch: int, joined_axes: bool) -> None:
    shape = (batch, TOKENS, 3 * WIDTH)
    new = lab.apply([Normalize()], lab.module(lambda b, x: written(b, x, batch=batch, joined_axes=joined_axes), shape))
    assert lab.ops(new) == ["attention"]
    ((name, found),) = lab.attrs(new).items()
    strides = (TOKENS * 3 * WIDTH if batch > 1 else found["workload"].q[2], DEPTH, 3 * WIDTH, 1)
    places = [(0, i * WIDTH, *strides) for i in range(3)]
    sizes = batch, HEADS, TOKENS, TOKENS, DEPTH, DEPTH, 0.25
    assert name == "attention_1" and found["workload"] == AttentionWorkload(*sizes, (shape,), *places)


@pytest.mark.parametrize("option", ["mask", "shared"])
def test_what_is_no_composite(lab, option: str) -> None:
    new = lab.apply([Normalize()], lab.module(lambda b, x: written(b, x, **{option: True}), (1, TOKENS, 3 * WIDTH)))
    assert "attention" not in lab.ops(new) and lab.ops(new).count("matmul") == 2


def test_heads_that_nothing_joins_stay_float(lab) -> None:
    new = lab.apply([Normalize()], lab.module(lambda b, x: written(b, x, join=False), (1, TOKENS, 3 * WIDTH)))
    assert "attention" not in lab.ops(new) and "nn.softmax" in lab.ops(new)
