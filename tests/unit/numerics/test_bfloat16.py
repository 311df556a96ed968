"""bfloat16 rounding against the format's own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import bfloat16
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import BF16, FP32, AddWorkload, Conv2dWorkload

ALL = np.arange(1 << 16, dtype=np.uint16)
"""Every bfloat16 there is."""
FINITE = ALL[ALL & 0x7F80 != 0x7F80]


def test_every_bfloat16_is_its_own_rounding() -> None:
    np.testing.assert_array_equal(bfloat16.to_bits(bfloat16.from_bits(FINITE)), FINITE)


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127, min_value=-(2.0**127)))
def test_the_nearest_is_taken(x: float) -> None:
    values = bfloat16.from_bits(FINITE).astype(np.float64)
    found = float(bfloat16.round_to_bfloat16(np.float32([x]))[0])
    assert abs(found - x) == abs(values - x).min()


def test_ties_go_to_even_and_their_neighbours_do_not() -> None:
    """Every value halfway between two bfloat16, and the float32 next to it on either side."""
    below = FINITE.astype(np.uint32)
    for low, wanted in ((0x7FFF, below), (0x8000, below + (below & 1)), (0x8001, below + 1)):
        found = bfloat16.to_bits((below << 16 | low).astype(np.uint32).view(np.float32))
        np.testing.assert_array_equal(found, wanted)


def test_what_is_not_finite_stays_so() -> None:
    nan = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(bfloat16.round_to_bfloat16(nan)).all()
    wide = np.float32([np.inf, -np.inf, 3.4e38, -3.4e38])
    assert bfloat16.round_to_bfloat16(wide).tolist() == [np.inf, -np.inf, np.inf, -np.inf]


def test_a_convolution_rounds_both_operands_and_nothing_else(rng: np.random.Generator) -> None:
    w = Conv2dWorkload(1, 4, 5, 3, 6, (3, 3), residual=True, activation="relu")
    x = rng.standard_normal((1, 4, 5, 3), dtype=np.float32)
    r = rng.standard_normal((1, 2, 3, 6), dtype=np.float32)
    weight, bias = rng.standard_normal((6, 3, 3, 3), dtype=np.float32), rng.standard_normal(6, dtype=np.float32)
    operands = Operands((None, None), None, weight, bias)
    got = evaluate(w, BF16, 32, operands, [x, r])
    rounded = Operands((None, None), None, bfloat16.round_to_bfloat16(weight), bias)
    np.testing.assert_array_equal(got, evaluate(w, FP32, 32, rounded, [bfloat16.round_to_bfloat16(x), r]))
    plain = evaluate(w, FP32, 32, operands, [x, r])
    assert 1e-4 < abs(got - plain).max() < 0.1


def test_other_operators_have_no_bf16() -> None:
    with pytest.raises(InvalidValueError, match="bf16 is for convolutions with a weight"):
        evaluate(AddWorkload((2, 3)), BF16, 32, Operands((None, None), None), [np.zeros((2, 3), np.float32)] * 2)


def test_the_bound_of_sums_holds_in_any_order() -> None:
    rng = np.random.default_rng(3)
    for length in (1, 2, 300):
        products = rng.normal(size=(40, length)).astype(np.float32)
        exact, bound = (
            products.astype(np.float64).sum(1),
            bfloat16.sum_bound(length, np.abs(products.astype(float)).sum(1)),
        )
        sums = np.zeros(40, np.float32)
        for column in products.T:
            sums += column
        assert (np.abs(sums - exact) <= bound).all()
        assert (bound == (length + 2) / 2**24 * np.abs(products.astype(float)).sum(1)).all()
