"""Attention against plain loops in Python's own numbers, and its byte weights against exact powers of two."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import affine, attention
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP32, W8A8, AttentionWorkload, TensorQuant

BATCH, HEADS, QUERIES, KEYS, DEPTH, OUT_DEPTH = 2, 3, 4, 5, 2, 3
APART = AttentionWorkload(
    BATCH,
    HEADS,
    QUERIES,
    KEYS,
    DEPTH,
    OUT_DEPTH,
    0.7,
    ((BATCH, QUERIES, HEADS * DEPTH), (BATCH, HEADS * DEPTH, KEYS), (BATCH, 1 + KEYS, HEADS * OUT_DEPTH)),
    (0, 0, QUERIES * HEADS * DEPTH, DEPTH, HEADS * DEPTH, 1),
    (1, 0, HEADS * DEPTH * KEYS, DEPTH * KEYS, 1, KEYS),  # stored feature by feature
    (2, HEADS * OUT_DEPTH, (1 + KEYS) * HEADS * OUT_DEPTH, OUT_DEPTH, HEADS * OUT_DEPTH, 1),  # behind one other row
)
"""q, k and v in tensors of their own, each laid out differently."""


def by_hand(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, b: int, h: int, i: int
) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """Rows of keys and of values, and the query, as `APART` places them: [feature] of each."""
    keys = [[float(k[b, h * DEPTH + d, j]) for d in range(DEPTH)] for j in range(KEYS)]
    values = [[float(v[b, 1 + j, h * OUT_DEPTH + d]) for d in range(OUT_DEPTH)] for j in range(KEYS)]
    return keys, values, [float(q[b, i, h * DEPTH + d]) for d in range(DEPTH)]


def softmax_of(scores: list[float]) -> list[float]:
    weights = [math.exp(s - max(scores)) for s in scores]
    return [w / sum(weights) for w in weights]


def by_loops(w: AttentionWorkload, inputs: list[np.ndarray]) -> np.ndarray:
    y = np.zeros((BATCH, QUERIES, HEADS * OUT_DEPTH))
    for b, h, i in np.ndindex(BATCH, HEADS, QUERIES):
        keys, values, query = by_hand(*inputs, b, h, i)
        shares = softmax_of([w.scale * sum(x * y for x, y in zip(query, key, strict=True)) for key in keys])
        for d in range(OUT_DEPTH):
            y[b, i, h * OUT_DEPTH + d] = sum(s * value[d] for s, value in zip(shares, values, strict=True))
    return y


@pytest.mark.parametrize("size", [1.0, 40.0])
def test_floats(rng: np.random.Generator, size: float) -> None:
    """Also where exponentials of the scores themselves would leave float64's range: scores reach thousands."""
    inputs = [rng.normal(0, size, shape).astype(np.float32) for shape in APART.sources]
    y = evaluate(APART, FP32, 32, Operands((None,) * 3, None), inputs)
    assert y.dtype == np.float32 and y.shape == (BATCH, QUERIES, HEADS * OUT_DEPTH)
    np.testing.assert_allclose(y, by_loops(APART, inputs), rtol=1e-6, atol=1e-6 * size)


def byte_case(rng: np.random.Generator) -> tuple[Operands, list[np.ndarray]]:
    quants = TensorQuant(8, 0.03, 120), TensorQuant(8, 0.05, 131), TensorQuant(8, 0.02, 7)
    inputs = [rng.integers(0, 256, shape).astype(np.uint8) for shape in APART.sources]
    return Operands(quants, TensorQuant(8, 0.02, 9)), inputs


def test_bytes(rng: np.random.Generator) -> None:
    """A weight in bytes is off by half a part of 255 of the heaviest at most; sums of these by that of each key."""
    given, inputs = byte_case(rng)
    real = [affine.dequantize(x, tq) for x, tq in zip(inputs, given.inputs, strict=True) if tq is not None]
    exact = by_loops(APART, real)
    bound = 2 * KEYS * 0.5 / 255 * np.abs(real[2]).max()
    floats = evaluate(APART, W8A8, 32, given, inputs)
    assert floats.dtype == np.float32 and np.abs(floats - exact).max() < bound
    codes = evaluate(APART, W8A8, 8, given, inputs)
    out = given.output
    assert out is not None and codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, affine.quantize(floats, out))
    assert len(np.unique(codes)) > 20


def test_weights_are_the_nearest_powers_of_two() -> None:
    """For every halving up to where they are nothing, in steps of 1/64; the power is good to 3 parts of a million."""
    steps = np.arange(0, 64 * 40, dtype=np.int32)
    scores = np.int32(5) - steps[:, None] * np.int32([[0, 1]])
    found = attention.weight_bytes(scores, np.float32(1 / 64))
    exact = 255 * 2.0 ** (-steps / 64)
    assert (found[:, 0] == 255).all()
    assert (np.abs(found[:, 1] - exact) <= 0.5 + 255 * 3e-6).all()
    assert (np.diff(found[:, 1]) <= 0).all() and found[-1, 1] == 0


def test_scores_as_far_apart_as_integers_can_be_weigh_nothing() -> None:
    far = attention.weight_bytes(np.int32([[2**30, -(2**30) + 1]]), np.float32(3e38))
    assert far.tolist() == [[255, 0]]


def test_each_row_has_its_own_heaviest_key() -> None:
    scores = np.int32([[1, 2, 3], [7, -7, 7], [0, 0, 0]])
    assert attention.weight_bytes(scores, np.float32(1)).tolist() == [[64, 128, 255], [255, 0, 255], [255, 255, 255]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_longest_sum_just_fits(bits: int) -> None:
    """Differences from zero points reach 2^bits - 1, of either sign, in both factors."""
    most = (2**bits - 1) ** 2
    assert attention.longest_sum(bits) * most <= 2**31 - 1 < (attention.longest_sum(bits) + 1) * most


def test_missing_ranges_are_named(rng: np.random.Generator) -> None:
    given, inputs = byte_case(rng)
    for i in range(3):
        quants = tuple(None if i == j else tq for j, tq in enumerate(given.inputs))
        with pytest.raises(InvalidValueError, match=f"input {i} of an integer operator needs a TensorQuant"):
            evaluate(APART, W8A8, 8, Operands(quants, given.output), inputs)
