"""Observers: which range each method gives."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.calibrate.observers import METHODS, Observer, check_method
from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.numerics.activations import apply
from tvm_mpq.numerics.affine import dequantize, quantize, tensor_quant
from tvm_mpq.schema import TensorQuant


def observed(*batches: np.ndarray) -> Observer:
    observer = Observer("t")
    for batch in batches:
        observer.see(batch.astype(np.float32))
    return observer


def ends(q: TensorQuant) -> tuple[float, float]:
    return (0 - q.zero_point) * q.scale, (2**q.bits - 1 - q.zero_point) * q.scale


def error(x: np.ndarray, q: TensorQuant) -> float:
    x = x.astype(np.float32)
    return float(np.mean((dequantize(quantize(x, q), q) - x) ** 2, dtype=np.float64))


def test_minmax_covers_everything_of_all_samples(rng: np.random.Generator) -> None:
    q = observed(rng.uniform(-1, 1, 50), np.array([7.5]), np.array([-3.0])).quant(8, "minmax")
    low, high = ends(q)
    assert low == pytest.approx(-3, abs=q.scale) and high == pytest.approx(7.5, abs=q.scale)


def test_percentile_forgets_one_outlier(rng: np.random.Generator) -> None:
    x = rng.normal(size=(8, 4096))
    x[0, 0] = 1000
    low, high = ends(observed(*x).quant(8, "percentile"))
    assert -6 < low < -3 and 3 < high < 6


def test_mse_is_never_worse_than_minmax(rng: np.random.Generator) -> None:
    for x in (rng.normal(size=4096), rng.laplace(size=4096), rng.uniform(0, 1, 4096), rng.exponential(size=4096)):
        for bits in (1, 2, 4, 8):
            observer = observed(x)
            assert error(x, observer.quant(bits, "mse")) <= error(x, observer.quant(bits, "minmax"))


def test_mse_cuts_tails_when_bits_are_few(rng: np.random.Generator) -> None:
    observer = observed(rng.laplace(size=4096))
    assert observer.quant(3, "mse").scale < 0.7 * observer.quant(3, "minmax").scale


def test_mse_cuts_the_longer_tail_alone(rng: np.random.Generator) -> None:
    """Two values far out on one side, as many as a 3 bit range had better forget; the other side stays whole."""
    x = np.append(rng.uniform(-1, 0, 4000), [5.0, 5.0])
    low, high = ends(observed(x).quant(3, "mse"))
    assert low < -0.85 and high < 0.5


def test_errors_count_behind_what_reads_the_values(rng: np.random.Generator) -> None:
    """hard_swish makes 0 of all below -3: an 8 bit range from there on has the finer steps."""
    x = rng.uniform(-20, 4, 20000).astype(np.float32)
    read = partial(apply, "hard_swish")
    before, behind = Observer("x"), Observer("x", read=read)
    errors = {}
    for observer in (before, behind):
        observer.see(x)
        quant = observer.quant(8, "mse")
        errors[observer] = float(np.mean((read(dequantize(quantize(x, quant), quant)) - read(x)) ** 2))
    assert errors[behind] < 0.15 * errors[before]
    assert ends(behind.quant(8, "mse"))[0] == pytest.approx(-3, abs=0.8)


def test_many_values_are_told_by_their_counts(rng: np.random.Generator) -> None:
    x = rng.laplace(size=(6, 4096)) + 0.5
    quant = observed(*x).quant(4, "mse")
    tried = [observed(*x).quant(4, name) for name in ("minmax", "percentile")]
    assert error(x, quant) < min(error(x, other) for other in tried)
    exact = min(error(x, tensor_quant(a, b, 4)) for a in np.linspace(-8, 0, 41) for b in np.linspace(1, 8, 36))
    assert error(x, quant) < 1.05 * exact


def test_one_value_in_many_is_seen() -> None:
    """A transformer's outlier: one channel of one token, as much as all others together."""
    x = np.full((20, 64 * 384), 0.5, np.float32)
    x[:, 12345] = 200.0
    for method in ("mse", "minmax"):
        assert ends(observed(*x).quant(8, method))[1] > 150


def test_the_only_step_of_one_bit_is_in_the_middle(rng: np.random.Generator) -> None:
    """Half of a normal distribution is cut best at 0.61 standard deviations, to 0 or twice that."""
    x = np.maximum(rng.normal(size=1 << 16), 0)
    x[0] = 20  # a tail that min and max follow
    q = observed(x).quant(1, "mse")
    assert q.zero_point == 0 and q.scale == pytest.approx(1.22, abs=0.4)  # tried in steps of 0.4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.sampled_from(sorted(METHODS)),
    st.integers(1, 8),
)
def test_zero_is_exact_whatever_was_seen(values: list[float], method: str, bits: int) -> None:
    """Padding and relu need a zero without error."""
    q = observed(np.array(values)).quant(bits, method)
    assert q.bits == bits and 0 <= q.zero_point < 2**bits
    assert np.isfinite(q.scale) and q.scale > 0 and q.scale == np.float32(q.scale)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_tensor_of_zeros(method: str) -> None:
    q = observed(np.zeros(10)).quant(8, method)
    assert q.scale > 0 and dequantize(quantize(np.zeros(3, np.float32), q), q).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_values_name_the_tensor(value: float) -> None:
    with pytest.raises(DataError, match="'t' holds NaN or infinity"):
        observed(np.array([1.0, value]))


def test_unknown_method() -> None:
    with pytest.raises(InvalidValueError, match=r"\['minmax', 'mse', 'output', 'percentile'\] \(got 'max'\)"):
        check_method("max")


def test_ranges_by_results_cut_what_the_weights_do_not_look_at(rng: np.random.Generator) -> None:
    """A channel far out of the others' range that no weight reads must not make their steps coarse."""
    values = rng.normal(0, 1, (500, 4)).astype(np.float32)
    values[:, 3] *= 3
    scales = {}
    for heard in (0.0, 1.0):
        observer = Observer("x", np.diag([1.0, 1.0, 1.0, heard]))
        observer.see(values)
        scales[heard] = observer.quant(4, "output").scale
    assert scales[0.0] < 0.7 * scales[1.0]
    alone = Observer("x")
    alone.see(values)
    assert alone.quant(4, "output") == alone.quant(4, "mse")


def test_an_error_that_is_always_the_same_counts_for_nothing() -> None:
    """Biases take it up: one value far out, always the same, may be cut off."""
    values = np.tile(np.array([[0.1, 9.0], [0.2, 9.0], [0.35, 9.0], [0.4, 9.0]], np.float32), (50, 1))
    observer = Observer("x", np.eye(2))
    observer.see(values)
    assert observer.quant(3, "output").scale < 0.6 * observer.quant(3, "mse").scale
