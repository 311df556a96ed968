"""Scales, rounding and ranges."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tvm_mpq.errors import InvalidValueError, UnsupportedBitsError
from tvm_mpq.numerics import activation_names, activations, affine, requantize
from tvm_mpq.schema import TensorQuant

WEIGHT_BITS = range(2, 9)
floats = st.floats(-(2.0**100), 2.0**100, width=32)


@pytest.mark.parametrize("module", [affine, activations, activation_names, requantize], ids=lambda m: m.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_outside_are_refused(bits):
    with pytest.raises(UnsupportedBitsError, match=rf"\(got {bits}\)"):
        affine.unsigned_range(bits)
    with pytest.raises(UnsupportedBitsError, match=rf"\(got {bits}\)"):
        affine.weight_range(bits)


def test_one_bit_weights_are_signs():
    w = np.array([[[-0.5, 0.0], [-0.0, 2.0]], [[0, 0], [0, 0]], [[1e-42, 0], [0, -1e-42]]], np.float32)
    q, scale = affine.quantize_weight(w, 1)
    assert q.dtype == np.int8 and affine.weight_range(1) == (-1, 1)
    assert q.tolist() == [[[-1, 1], [1, 1]], [[1, 1], [1, 1]], [[1, 1], [1, -1]]]  # a zero of either sign counts as +1
    assert scale.tolist() == [0.625, 2.0**-60, 2.0**-60]


@settings(max_examples=60, deadline=None)
@given(w=hnp.arrays(np.float32, (1, 7), elements=st.floats(-100, 100, width=32)), factor=st.floats(0.1, 3.0))
def test_one_bit_scale_has_the_least_error(w, factor):
    q, scale = affine.quantize_weight(w, 1)

    def loss(s):
        return np.square(q * s - w.astype(np.float64)).sum()

    # a scale rounded to float32 and that of weights which count as zeros cost next to nothing
    assert loss(np.float64(scale[0])) <= loss(np.float64(scale[0]) * factor) + 1e-6 * np.square(w).sum() + 1e-30


def test_a_least_scale_raises_smaller_ones(rng):
    w = rng.standard_normal((3, 50)).astype(np.float32)
    for bits in (1, 2, 8):
        plain = affine.weight_scale(w, bits)
        q, scale = affine.quantize_weight(w, bits, np.float32([0.0, 10.0, plain[2] / 2]))
        assert scale.tolist() == [plain[0], 10.0, plain[2]]
        assert bits == 1 or not q[1].any()


@settings(max_examples=60, deadline=None)
@given(w=hnp.arrays(np.float32, (3, 2, 5), elements=floats), bits=st.sampled_from(WEIGHT_BITS))
def test_weights_stay_in_range_and_near(w, bits):
    q, scale = affine.quantize_weight(w, bits)
    low, high = affine.weight_range(bits)
    assert q.dtype == np.int8 and scale.dtype == np.float32 and np.isfinite(scale).all() and (scale > 0).all()
    assert low <= q.min() and q.max() <= high
    inside = np.abs(w) <= scale[:, None, None].astype(np.float64) * high
    error = np.abs(q * scale[:, None, None].astype(np.float64) - w)
    assert (error[inside] <= (scale[:, None, None] * 0.5000001 + np.zeros_like(w))[inside]).all()


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_scale_is_the_best_of_the_grid(rng, bits):
    w = rng.standard_normal((5, 3, 3, 37)).astype(np.float32)
    w[1] *= 1e30
    w[2] = 0
    w[3] *= 1e-30
    q, scale = affine.quantize_weight(w, bits)
    high = affine.weight_range(bits)[1]
    top = np.abs(w).max(axis=(1, 2, 3)).astype(np.float64)
    assert scale[2] == 2.0**-60 and not q[2].any()
    for o in (0, 1, 3, 4):
        if bits == 8:
            assert scale[o] == np.float32(top[o] / 127)
            continue

        def loss(s, o=o):
            return np.square(np.clip(np.rint(w[o] / np.float32(s)), -high, high) * np.float64(s) - w[o]).sum()

        assert loss(scale[o]) <= loss(np.float32(top[o] / high)) * (1 + 1e-5)
    if bits <= 4:
        assert scale[0] < top[0] / high  # normal weights are clipped


def test_blocks_do_not_change_scales(rng, monkeypatch):
    w = rng.standard_normal((70, 30)).astype(np.float32)
    whole = affine.weight_scale(w, 3)
    monkeypatch.setattr(affine, "_BLOCK", 64)
    assert np.array_equal(affine.weight_scale(w, 3), whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(bad):
    w = np.ones((2, 3), np.float32)
    w[1, 2] = bad
    with pytest.raises(InvalidValueError, match=rf"weights must be finite \(got 1 NaN or infinite of {w.size}\)"):
        affine.quantize_weight(w, 8)


def test_a_scalar_weight_is_refused():
    with pytest.raises(InvalidValueError, match="axis"):
        affine.weight_scale(np.float32(1), 8)


def test_subnormal_weights_are_zeros():
    q, scale = affine.quantize_weight(np.full((1, 4), 1e-42, np.float32), 4)
    assert scale[0] == 2.0**-60 and not q.any()


@settings(max_examples=200, deadline=None)
@given(a=floats, b=floats, bits=st.integers(1, 8))
def test_tensor_quant_holds_its_range(a, b, bits):
    lo, hi = min(a, b), max(a, b)
    tq = affine.tensor_quant(lo, hi, bits)
    qmax = 2**bits - 1
    assert np.float64(np.float32(tq.scale)) == tq.scale and tq.scale > 0 and 0 <= tq.zero_point <= qmax
    assert affine.quantize(np.float32(0), tq) == tq.zero_point
    assert affine.dequantize(np.uint8(tq.zero_point), tq) == 0
    for value in (lo, hi):
        error = abs(float(affine.dequantize(affine.quantize(np.float32(value), tq), tq)) - value)
        assert error <= tq.scale * 1.001


@pytest.mark.parametrize("lo, hi", [(0, 0), (0, 1e-42), (-1e-44, 0)])
def test_degenerate_range_has_scale_one(lo, hi):
    assert affine.tensor_quant(lo, hi, 8) == TensorQuant(8, 1.0, 0)


def test_range_is_widened_to_zero():
    assert affine.tensor_quant(2.0, 4.0, 8) == affine.tensor_quant(0.0, 4.0, 8)
    assert affine.tensor_quant(-4.0, -2.0, 8).zero_point == 255


@pytest.mark.parametrize("lo, hi", [(np.nan, 1), (0, np.inf), (-np.inf, 0), (2, 1), (-1e300, 1e300)])
def test_bad_ranges_are_refused(lo, hi):
    with pytest.raises(InvalidValueError, match="activation range"):
        affine.tensor_quant(lo, hi, 8)


def test_quantize_rounds_half_to_even_and_clamps():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e38, -1e38, np.inf, -np.inf, np.nan], np.float32)
    assert affine.quantize(x, TensorQuant(4, 1.0, 4)).tolist() == [4, 6, 6, 4, 2, 15, 0, 15, 0, 0]


def test_quantize_divides_truly():
    scale = np.float32(0.1)
    x = (np.arange(1, 2000, 2, dtype=np.float32) * np.float32(0.05)).astype(np.float32)
    expected = np.clip(np.rint(x / scale), 0, 255)
    assert np.array_equal(affine.quantize(x, TensorQuant(8, float(scale), 0)), expected)


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), scale=st.floats(2.0**-20, 2.0**20, width=32), data=st.data())
def test_quantize_undoes_dequantize(bits, scale, data):
    tq = TensorQuant(bits, scale, data.draw(st.integers(0, 2**bits - 1)))
    q = np.arange(2**bits, dtype=np.uint8)
    assert np.array_equal(affine.quantize(affine.dequantize(q, tq), tq), q)


@pytest.mark.parametrize(
    "activation, bounds",
    [
        ("none", (0, 255)),
        ("relu", (100, 255)),
        ("clip:0.0:6.0", (100, 112)),
        ("clip:-1.0:1.0", (98, 102)),
        ("clip:-1e9:1e9", (0, 255)),
        ("hard_swish", (0, 255)),
    ],
)
def test_bounds(activation, bounds):
    assert affine.bounds_for_activation(activation, TensorQuant(8, 0.5, 100)) == bounds
