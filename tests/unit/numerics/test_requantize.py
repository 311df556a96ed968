"""Requantization: rounding, clamping, residual."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.numerics.fma import fma32
from tvm_mpq.numerics.requantize import multiplier, requantize, round_clamp, scale_accumulator
from tvm_mpq.schema import TensorQuant

OUT = TensorQuant(8, 1.0, 10)


def test_half_to_even_then_zero_point():
    acc = np.array([1, 3, 5, -1, -3], np.int32)
    assert requantize(acc, np.float32(0.5), OUT, (0, 255)).tolist() == [10, 12, 12, 10, 8]


def test_extremes_clamp():
    acc = np.array([np.iinfo(np.int32).min, np.iinfo(np.int32).max], np.int32)
    assert requantize(acc, np.float32(1e30), OUT, (10, 200)).tolist() == [10, 200]
    assert round_clamp(np.float32([np.nan, np.inf, -np.inf]), 3, 2, 9).tolist() == [2, 9, 2]


def test_accumulator_is_rounded_to_float32_first():
    acc = np.array([2**24 + 1, 2**24 + 3], np.int32)
    assert scale_accumulator(acc, np.float32(1)).tolist() == [2.0**24, 2.0**24 + 4]


def test_multiplier_rounds_once():
    scales = np.float32([0.1, 0.3])
    expected = (np.float64(np.float32(0.7)) * scales.astype(np.float64) / np.float64(np.float32(0.9))).astype(
        np.float32
    )
    assert np.array_equal(multiplier(float(np.float32(0.7)), scales, output=float(np.float32(0.9))), expected)


@settings(max_examples=100, deadline=None)
@given(
    acc=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4),
    res=st.lists(st.integers(-255, 255), min_size=4, max_size=4),
    factor=st.floats(2.0**-30, 2.0**4, width=32),
    residual_factor=st.floats(2.0**-10, 2.0**6, width=32),
)
def test_residual_uses_one_rounding(acc, res, factor, residual_factor):
    a, r = np.array(acc, np.int32), np.array(res, np.int32)
    m, mr = np.float32(factor), np.float32(residual_factor)
    y = scale_accumulator(a, m, r, mr)
    assert np.array_equal(y, fma32(a.astype(np.float32), m, r.astype(np.float32) * mr))
    assert np.array_equal(requantize(a, m, OUT, (0, 255), r, mr), np.clip(np.rint(y) + np.float32(10), 0, 255))


def test_without_an_output_scale_the_product_is_the_multiplier() -> None:
    assert multiplier(0.5, 0.25) == np.float32(0.125)
