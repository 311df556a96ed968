"""Sums of halves: one rounding a multiply-add, blocks that cannot overflow, and an error within its bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import float16
from tvm_mpq.numerics.conv import float_conv2d
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP16, AddWorkload, Conv2dWorkload

SAME = (1, 1, 1, 1)
CASES = [
    Conv2dWorkload(1, 5, 6, 33, 9, (3, 3), (1, 1), SAME),
    Conv2dWorkload(2, 9, 8, 3, 8, (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv2dWorkload(1, 1, 2, 300, 10, (1, 1)),
    Conv2dWorkload(1, 5, 6, 16, 12, (3, 3), (2, 1), (2, 0, 1, 2), (1, 2)),
    Conv2dWorkload(1, 5, 6, 12, 8, (3, 3), (1, 1), SAME, groups=4),
]
HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)


def exact_half(value: Fraction) -> float:
    """The nearest half, ties to even, by whole numbers; the value is below 65520."""
    exponent = -24
    while abs(value) >= Fraction(2) ** (exponent + 11):
        exponent += 1
    return round(value / Fraction(2) ** exponent) * 2.0**exponent


@settings(max_examples=500, deadline=None)
@given(HALVES, HALVES, HALVES)
def test_a_fused_multiply_add_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if abs(exact) < 65520:
        assert float(float16.fma16(*(np.float32([[v]]) for v in (a, b, c)))[0, 0]) == exact_half(exact)


def triples() -> Iterator[tuple[float, float, float]]:
    """Products that end on or next to the middle between two halves, by less than float32 shows; subnormals too."""
    for c in (1 + 2**-10, 1 + 2**-9, 2.0**-14 + 2.0**-24, 2.0**-17 + 2.0**-24):
        step = math.floor(math.log2(c)) - 11 if c >= 2**-14 else -25
        first = step // 2
        for nearly in (0, 2.0**-10):
            for sign, more in itertools.product((1, -1), (1, -1)):
                yield sign * more * 2.0**first * (1 - nearly), 2.0 ** (step - first) * (1 + nearly), sign * c


def test_the_middle_between_two_halves() -> None:
    moved = 0
    for triple in triples():
        assert all(float(np.float16(v)) == v for v in triple)
        a, b, c = map(Fraction, triple)
        found = float(float16.fma16(*(np.float32([[v]]) for v in triple))[0, 0])
        assert found == exact_half(a * b + c), triple
        rounded = np.float32(float(a * b)) + np.float32(float(c))
        moved += found != float(rounded.astype(np.float16))
    assert moved >= 8, "where rounding twice, by way of float32, would be wrong"


def drawn(w: Conv2dWorkload, rng: np.random.Generator, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    x = rng.standard_normal((w.batch, w.in_height, w.in_width, w.in_channels)).astype(np.float32)
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups)) * size
    return x, weight.astype(np.float32)


@pytest.mark.parametrize("size", [1e-6, 0.05, 1e4])
@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_the_error_stays_within_its_bound(w: Conv2dWorkload, size: float, rng: np.random.Generator) -> None:
    x, weight = drawn(w, rng, size)
    scaled, inverse = float16.scaled_weight(w, weight)
    halves = [float16.to_halves(v).astype(np.float64) for v in (x, scaled)]
    exact = float_conv2d(halves[0], halves[1], None, w).astype(np.float64) * inverse
    found = float16.conv_of_halves(x, weight, None, w)
    bound = float16.sum_bound(w, x, weight)
    assert (abs(found - exact) <= bound + 2.0**-22 * abs(exact)).all()
    assert abs(found - exact).max() > 0.001 * bound.max(), "a bound that says something"
    plain = float_conv2d(x, weight, None, w)
    assert abs(found - plain).max() <= 0.004 * abs(plain).max(), "what rounding to halves and summing them costs"


@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_blocks_cover_the_terms_and_are_short(w: Conv2dWorkload) -> None:
    sizes = float16.blocks_of(w).sizes()
    assert sum(sizes) == w.weight_count // w.out_channels and max(sizes) <= float16.BLOCK_TERMS


def test_blocks_are_whole_rows_where_these_are_short() -> None:
    assert [float16.blocks_of(w).sizes() for w in CASES[1:3]] == [[63, 42, 42], [60] * 5]
    assert float16.blocks_of(CASES[0]).sizes() == [50, 49] * 3
    assert float16.blocks_of(CASES[3]).sizes() == [48] * 3
    assert float16.Blocks.of((3, 3), 70, False).sizes() == [35] * 18


def test_a_scale_is_a_power_of_two_just_below_overflow(rng: np.random.Generator) -> None:
    w = CASES[0]
    _, weight = drawn(w, rng, 37.0)
    weight[4] = 0
    scaled, inverse = float16.scaled_weight(w, weight)
    np.testing.assert_array_equal(scaled * inverse[:, None, None, None], weight)
    assert (np.frexp(inverse)[0] == 0.5).all()
    starts = np.cumsum([0, *float16.blocks_of(w).sizes()[:-1]])
    sums = np.add.reduceat(abs(scaled.reshape(9, -1)), starts, axis=1).max(axis=1)
    assert (np.delete(sums, 4) > 0.48).all() and (sums < 0.97).all()


def test_the_greatest_inputs_do_not_overflow() -> None:
    w = Conv2dWorkload(1, 1, 1, 200, 8, (1, 1))
    weight = np.full((8, 1, 1, 200), 0.731, np.float32)
    x = np.full((1, 1, 1, 200), np.inf, np.float32)
    found = float16.conv_of_halves(x, weight, None, w)
    assert found == pytest.approx(200 * 0.731 * 65504, rel=0.01)


def test_what_else_is_refused() -> None:
    values = [np.zeros((2, 3), np.float32)] * 2
    with pytest.raises(InvalidValueError, match="fp16 is for convolutions with a weight"):
        evaluate(AddWorkload((2, 3)), FP16, 32, Operands((None, None), None), values)


@pytest.mark.parametrize("w", [CASES[2], CASES[4]], ids=["many terms", "groups"])
def test_the_reference_adds_block_by_block(w: Conv2dWorkload, rng: np.random.Generator) -> None:
    """To the bit: one multiply-add of halves after another, each block from 0, blocks added up in float32."""
    shape = (w.batch, w.in_height, w.in_width, w.in_channels)
    x, bias = rng.normal(size=shape).astype(np.float32), rng.normal(size=w.out_channels).astype(np.float32)
    per_group = w.in_channels // w.groups
    weight = rng.normal(size=(w.out_channels, *w.kernel, per_group)).astype(np.float32)
    y = evaluate(w, FP16, 32, Operands((None,), None, weight, bias), [x])
    scaled, inverse = float16.scaled_weight(w, weight)
    halves = float16.to_halves(scaled).astype(np.float32).reshape(w.out_channels, -1)
    padded = np.pad(float16.to_halves(x).astype(np.float32), ((0, 0), w.padding[::2], w.padding[1::2], (0, 0)))
    for o, row, column in itertools.product((0, w.out_channels - 1), (0, w.out_height - 1), (0, w.out_width - 1)):
        first = o // (w.out_channels // w.groups) * per_group
        window = padded[0, row : row + w.kernel[0], column : column + w.kernel[1], first : first + per_group].ravel()
        total, at = np.float32(0), 0
        for size in float16.blocks_of(w).sizes():
            block = np.zeros(1, np.float32)
            for i in range(at, at + size):
                block = float16.fma16(window[i : i + 1], halves[o, i : i + 1], block)
            total, at = np.float32(total + block[0]), at + size
        assert y[0, row, column, o] == np.float32(np.float32(total * inverse[o]) + bias[o])


def test_rows_of_a_kernel_are_one_run_where_their_inputs_lie_side_by_side() -> None:
    """40 channels, three columns: 120 terms in two parts, or 40 for each column where other groups lie between."""
    assert float16.blocks_of(Conv2dWorkload(1, 5, 5, 40, 8, (3, 3))).sizes() == [60] * 6
    assert float16.blocks_of(Conv2dWorkload(1, 5, 5, 80, 8, (3, 3), groups=2)).sizes() == [40] * 9
    assert float16.blocks_of(Conv2dWorkload(1, 5, 5, 40, 8, (3, 3), dilation=(1, 2))).sizes() == [40] * 9
    assert float16.blocks_of(Conv2dWorkload(1, 5, 5, 120, 8, (3, 1), dilation=(1, 2))).sizes() == [60] * 6
