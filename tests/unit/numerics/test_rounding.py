"""Rounding to outputs: never worse than to nearest, exact where an exact answer is known, within its ranges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import quantize_weight, weight_range
from tvm_mpq.numerics.output_rounding import output_error, round_to_outputs
from tvm_mpq.numerics.rounding import (
    LONGEST,
    InputMoments,
    OperatorRounding,
    corrected_bias,
    damped,
    towards_float_outputs,
)


def correlated(rng: np.random.Generator, groups: int, n: int, positions: int = 400) -> np.ndarray:
    """Inputs float32[G, P, n] whose columns have much in common."""
    mixing = rng.normal(0, 1, (groups, n, n)) * 0.5 + np.eye(n)
    return (rng.normal(0, 1, (groups, positions, n)) @ mixing).astype(np.float32)


def moments(x: np.ndarray) -> np.ndarray:
    return damped(np.swapaxes(x, 1, 2).astype(np.float64) @ x / x.shape[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 3), st.integers(1, 5), st.integers(1, 80))
def test_codes_are_in_range_and_results_no_farther_than_to_nearest(
    seed: int, bits: int, groups: int, rows: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (groups, rows, n)).astype(np.float32)
    whole = moments(correlated(rng, groups, n))
    codes, scales = round_to_outputs(weight, whole, bits)
    low, high = weight_range(bits)
    assert codes.dtype == np.int8 and low <= codes.min() and codes.max() <= high
    assert bits > 1 or codes.all()
    assert (scales > 0).all() and np.isfinite(scales).all()
    nearest, steps = quantize_weight(weight.reshape(groups * rows, n), bits)
    plain = output_error(weight, nearest.reshape(weight.shape), steps.reshape(groups, rows), whole)
    assert (output_error(weight, codes, scales, whole) <= plain * 1.0001 + 1e-9).all()


def test_much_nearer_than_rounding_to_nearest_where_inputs_go_together(rng: np.random.Generator) -> None:
    weight = rng.normal(0, 1, (1, 16, 96)).astype(np.float32)
    whole = moments(correlated(rng, 1, 96))
    nearest, steps = quantize_weight(weight[0], 4)
    plain = output_error(weight, nearest[None], steps[None], whole).sum()
    assert output_error(weight, *round_to_outputs(weight, whole, 4), whole).sum() < 0.55 * plain


def test_two_weights_get_the_best_of_all_integers(rng: np.random.Generator) -> None:
    """Small enough to try them all at the scale that was found."""
    for _ in range(20):
        weight = rng.normal(0, 1, (1, 1, 2)).astype(np.float32)
        whole = moments(correlated(rng, 1, 2))
        codes, scales = round_to_outputs(weight, whole, 3)
        every = [np.array([[pair]], np.int8) for pair in itertools.product(range(-3, 4), repeat=2)]
        best = min(float(output_error(weight, q, scales, whole).sum()) for q in every)
        assert float(output_error(weight, codes, scales, whole).sum()) <= best * 1.6 + 1e-9


def test_independent_inputs_of_one_size_round_to_nearest_at_the_scale_found(rng: np.random.Generator) -> None:
    weight = rng.normal(0, 1, (1, 4, 30)).astype(np.float32)
    codes, scales = round_to_outputs(weight, np.eye(30)[None], 5)
    np.testing.assert_array_equal(codes, np.clip(np.rint(weight / scales[..., None]), -15, 15))


def test_the_clipping_point_found_is_nearly_the_best_of_all(rng: np.random.Generator) -> None:
    """Where inputs are independent, and nothing is done after it, codes are to nearest at the scale it gives."""
    weight = rng.standard_t(3, (1, 64, 40)).astype(np.float32)  # outliers: clipping pays
    whole = np.diag(rng.uniform(0.1, 4, 40))[None]
    codes, scales = round_to_outputs(weight, whole, 3, sweeps=0)
    top = np.abs(weight).max(axis=-1) / 3
    tried = [(share * top).astype(np.float32) for share in np.linspace(1, 0.3, 36)]
    every = [output_error(weight, np.clip(np.rint(weight / s[..., None]), -3, 3), s, whole) for s in tried]
    found, best = output_error(weight, codes, scales, whole), np.min(every, axis=0)
    assert (found <= 1.1 * best).all() and found.sum() <= 1.003 * best.sum() < 0.7 * every[0].sum()


def test_scales_of_tiny_weights_are_normal_numbers(rng: np.random.Generator) -> None:
    """A clipping point below the largest weight would make the smallest normal scale a subnormal one."""
    weight = (rng.standard_t(3, (1, 64, 40)) * 1e-39).astype(np.float32)
    _, scales = round_to_outputs(weight, np.eye(40)[None], 3, sweeps=0)
    assert (scales >= np.finfo(np.float32).tiny).all()


def test_scales_are_not_below_the_least(rng: np.random.Generator) -> None:
    weight = rng.normal(0, 1e-6, (1, 4, 9)).astype(np.float32)
    least = np.full((1, 4), 0.5, np.float32)
    codes, scales = round_to_outputs(weight, np.eye(9)[None], 4, least)
    assert (scales >= least).all() and not codes.any()


def test_an_input_that_is_always_zero_does_no_harm(rng: np.random.Generator) -> None:
    x = correlated(rng, 1, 12)
    x[..., 5] = 0
    weight = rng.normal(0, 1, (1, 3, 12)).astype(np.float32)
    found = InputMoments.of(x.copy(), x.copy())
    codes, scales, bias = OperatorRounding(weight, np.zeros((1, 3), np.float32), found).to(4, np.zeros_like)
    assert np.isfinite(scales).all() and np.isfinite(bias).all()
    nothing = InputMoments.of(np.zeros_like(x), np.zeros_like(x))
    codes, scales, _ = OperatorRounding(weight, np.zeros((1, 3), np.float32), nothing).to(4, np.zeros_like)
    assert np.abs(codes * scales[..., None] - weight).max() <= scales.max() / 2 + 1e-6


def test_real_weights_make_up_for_inputs_that_were_changed_before(rng: np.random.Generator) -> None:
    wanted = correlated(rng, 1, 10, 4000)
    met = wanted * rng.uniform(0.5, 1.5, 10).astype(np.float32)
    weight = rng.normal(0, 1, (1, 6, 10)).astype(np.float32)
    y = wanted @ np.swapaxes(weight, 1, 2)
    moments = InputMoments.of(met.copy(), wanted.copy())
    whole = damped(moments.covariance, 1e-6)
    found = towards_float_outputs(weight, moments, whole, np.linalg.inv(whole))
    left = np.square(y - met @ np.swapaxes(found, 1, 2)).mean()
    assert left < 1e-3 * np.square(y - met @ np.swapaxes(weight, 1, 2)).mean()


def test_the_mean_result_is_the_float_networks(rng: np.random.Generator) -> None:
    wanted = correlated(rng, 2, 7) + 3
    met = wanted + rng.normal(0.2, 0.1, wanted.shape).astype(np.float32)
    weight = rng.normal(0, 1, (2, 4, 7)).astype(np.float32)
    own = rng.normal(0, 1, (2, 4)).astype(np.float32)
    found = InputMoments.of(met.copy(), wanted.copy())
    codes, scales = round_to_outputs(weight, damped(found.covariance), 2)
    bias = corrected_bias(weight, codes, scales, own, found)
    real = np.swapaxes(codes * scales[..., None], 1, 2)
    got = (met @ real).mean(axis=1) + bias
    np.testing.assert_allclose(got, (wanted @ np.swapaxes(weight, 1, 2)).mean(axis=1) + own, atol=1e-3)


def test_a_bias_that_grows_gets_the_scale_that_it_needs(rng: np.random.Generator) -> None:
    x = correlated(rng, 1, 4) + 50
    weight = rng.normal(0, 1, (1, 2, 4)).astype(np.float32)

    def least(bias: np.ndarray) -> np.ndarray:
        return (np.abs(bias) / 10).astype(np.float32)

    _, scales, bias = OperatorRounding(weight, np.zeros((1, 2), np.float32), InputMoments.of(x * 0.5, x.copy())).to(
        3, least
    )
    assert np.abs(bias).max() > 1 and (scales >= least(bias)).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="covariance must have shape"):
        round_to_outputs(np.zeros((1, 2, 3), np.float32), np.eye(4)[None], 4)


def test_rows_too_long_for_covariances_are_rounded_to_nearest_and_the_mean_is_kept(rng: np.random.Generator) -> None:
    n = LONGEST + 1
    x = rng.uniform(0, 1, (1, 3, n)).astype(np.float32)
    weight = rng.normal(0, 1, (1, 2, n)).astype(np.float32)
    own = np.ones((1, 2), np.float32)
    codes, scales, bias = OperatorRounding(weight, own, InputMoments.of(x.copy(), x.copy())).to(4, np.zeros_like)
    nearest, steps = quantize_weight(weight[0], 4)
    np.testing.assert_array_equal(codes[0], nearest)
    got = x[0].mean(axis=0) @ (codes[0] * steps[:, None]).T + bias[0]
    np.testing.assert_allclose(got, x[0].mean(axis=0) @ weight[0].T + 1, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(scales[0], steps)


def test_the_size_of_the_inputs_does_not_matter(rng: np.random.Generator) -> None:
    """Errors are compared with each other alone: inputs a thousand times smaller get the same integers and scales."""
    weight = rng.normal(0, 1, (1, 8, 20)).astype(np.float32)
    whole = moments(correlated(rng, 1, 20))
    codes, scales = round_to_outputs(weight, whole, 3)
    small_codes, small_scales = round_to_outputs(weight, whole * 2.0**-20, 3)
    np.testing.assert_array_equal(small_codes, codes)
    np.testing.assert_array_equal(small_scales, scales)
