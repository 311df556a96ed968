"""fma32 against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvm_mpq.numerics.fma import fma32

f32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.floats(-(2.0**20), 2.0**20, width=32)


def exact(a: float, b: float, c: float) -> float:
    """a * b + c rounded once to float32, half to even."""
    value = Fraction(a) * Fraction(b) + Fraction(c)
    if value == 0:
        return 0.0
    exponent = max(abs(value).numerator.bit_length() - abs(value).denominator.bit_length() - 25, -149)
    while abs(value) / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    rounded = round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent  # round() is half to even
    limit = Fraction(2) ** 128
    return float(rounded) if abs(rounded) < limit else float("inf") * (1 if rounded > 0 else -1)


@settings(max_examples=1500, deadline=None)
@given(a=f32, b=f32, c=f32)
@example(a=1.0, b=1.0, c=2.0**-24)
@example(a=1.0 + 2.0**-23, b=1.0 + 2.0**-23, c=2.0**-70)
@example(a=2.0**-149, b=2.0**-149, c=2.0**-149)
@example(a=1.0 + 2.0**-12, b=1.0 + 2.0**-12, c=2.0**-80)
@example(a=1.0 + 2.0**-12, b=1.0 + 2.0**-12, c=-(2.0**-80))
def test_one_rounding(a, b, c):
    assert float(fma32(np.float32(a), np.float32(b), np.float32(c))) == exact(a, b, c)


@settings(max_examples=1500, deadline=None)
@given(a=moderate, b=moderate, c=moderate)
def test_one_rounding_of_ordinary_numbers(a, b, c):
    assert float(fma32(np.float32(a), np.float32(b), np.float32(c))) == exact(a, b, c)


def test_double_rounding_is_caught():
    """a * b lies on a float32 tie; c breaks it far below float64's last place."""
    a = b = np.float32(1 + 2.0**-12)
    up, down = fma32(a, b, np.float32(2.0**-80)), fma32(a, b, np.float32(-(2.0**-80)))
    assert up > down
    naive = (np.float64(a) * np.float64(b) + np.float64(2.0**-80)).astype(np.float32)
    assert naive == down


def test_broadcast_and_specials():
    y = fma32(np.ones((2, 3), np.float32), np.float32(2), np.float32([1, np.inf, np.nan]))
    assert y.shape == (2, 3) and y.dtype == np.float32
    assert y[0, 0] == 3 and y[1, 1] == np.inf and np.isnan(y[0, 2])
