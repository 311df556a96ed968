"""Every workload kind: integers near the float meaning, exact where the definition says so."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import activations, affine, constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.schema import (
    FP32,
    W8A8,
    ActivationWorkload,
    AddWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    FloatWorkload,
    MultiplyWorkload,
    Pool2dWorkload,
    Precision,
    TensorQuant,
    padded_channels,
)

NO_RANGES = Operands((None, None), None)
SHAPE = (2, 5, 4, 7)


def ranged(rng, shape, lo, hi, bits=8):
    """(float values, their quantization, their integers)."""
    x = rng.uniform(lo, hi, shape).astype(np.float32)
    tq = affine.tensor_quant(lo, hi, bits)
    q = affine.quantize(x, tq)
    return affine.dequantize(q, tq), tq, q


def assert_within_steps(q, real, tq, steps):
    """q must be within `steps` of the quantized real value."""
    ideal = np.clip(real.astype(np.float64) / tq.scale + tq.zero_point, 0, 2**tq.bits - 1)
    assert q.dtype == np.uint8
    assert np.abs(q - ideal).max() <= steps


@pytest.mark.parametrize("activation", ["none", "relu", "clip:-1.0:2.0", "hard_swish", "gelu", "leaky_relu:0.1"])
@pytest.mark.parametrize("residual", [False, True])
def test_conv2d(rng, activation, residual):
    work = Conv2dWorkload(
        2, 5, 4, 6, 8, (3, 3), (2, 1), (1, 1, 1, 1), groups=2, residual=residual, activation=activation
    )
    x, x_quant, x_q = ranged(rng, (2, 5, 4, 6), -1, 2)
    r, r_quant, r_q = ranged(rng, (2, 3, 4, 8), -1, 1)
    w, bias = rng.standard_normal((8, 3, 3, 3)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    w_q, w_scale = affine.quantize_weight(w, 8)
    rounded_w = w_q * w_scale.reshape(-1, 1, 1, 1)
    floats = [x, r] if residual else [x]
    real = evaluate(work, FP32, 32, Operands((None, None), None, rounded_w, bias), floats)
    out = affine.tensor_quant(float(real.min()), float(real.max()), 8)
    pre = None if activations.is_clamp(activation) else affine.tensor_quant(-20, 20, 8)
    operands = Operands((x_quant, r_quant), out, w, bias, pre)
    q = evaluate(work, W8A8, 8, operands, [x_q, r_q] if residual else [x_q])
    # without a table only the last rounding differs (0.5); a table adds half a step before, times a slope of up to 1.5
    assert_within_steps(q, real, out, 0.51 if pre is None else 0.51 + 0.76 * pre.scale / out.scale)
    if pre is None:
        y = evaluate(work, W8A8, 32, operands, [x_q, r_q] if residual else [x_q])
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, real, rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-20])
@pytest.mark.parametrize("weight_bits", [1, 2, 8])
def test_channels_of_next_to_nothing_keep_their_bias(rng, weight_bits, size):
    """Integers of 30 bits hold a bias only in steps that are not much smaller; one bit has no zero at all."""
    work = Conv2dWorkload(1, 6, 6, 64, 4, (3, 3), (1, 1), (1, 1, 1, 1))
    x_q = rng.integers(0, 16, (1, 6, 6, 64)).astype(np.uint8)
    bias = np.float32([1.7, -1.7, 0.0, 3.1])
    weight = np.full((4, 3, 3, 64), size, np.float32)
    out = TensorQuant(8, 0.02, 100)
    operands = Operands((TensorQuant(4, 0.3, 3),), out, weight, bias)
    expected = np.broadcast_to(affine.quantize(bias, out), (1, 6, 6, 4))
    precision = Precision(weight_bits, 4)
    assert np.array_equal(evaluate(work, precision, 8, operands, [x_q]), expected)
    y = evaluate(work, precision, 32, operands, [x_q])
    np.testing.assert_allclose(y, np.broadcast_to(bias, y.shape), rtol=9 * 64 * 15 / 2**30, atol=1e-12)


def test_conv2d_in_float_rounds_once(rng):
    work = Conv2dWorkload(1, 1, 9, 33, 5, (1, 1), residual=True, activation="relu")
    x, r = rng.standard_normal((1, 1, 9, 33)).astype(np.float32), rng.standard_normal((1, 1, 9, 5)).astype(np.float32)
    w, b = rng.standard_normal((5, 1, 1, 33)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    y = evaluate(work, FP32, 32, Operands((None, None), None, w, b), [x, r])
    wide = np.einsum("nhwc,oc->nhwo", x.astype(np.float64), w[:, 0, 0].astype(np.float64)) + b + r
    np.testing.assert_allclose(y, np.maximum(wide, 0), rtol=1e-6)


def pool(mode, kernel=(3, 2), stride=(2, 2), padding=(1, 0, 1, 1), out=(3, 3), size=(5, 5), channels=3):
    return Pool2dWorkload(mode, 2, *size, channels, kernel, stride, padding, *out)


@pytest.mark.parametrize("mode", ["max", "avg", "avg_valid"])
@pytest.mark.parametrize("out", [(3, 3), (3, 2)])
def test_pool2d(rng, mode, out):
    work = pool(mode, out=out)
    x, tq, q = ranged(rng, (2, 5, 5, 3), -1, 2)
    real = np.zeros((2, *out, 3))
    for n, y, z, c in np.ndindex(*real.shape):
        rows, columns = range(2 * y - 1, 2 * y + 2), range(2 * z, 2 * z + 2)
        cells = [x[n, i, j, c] for i in rows for j in columns if 0 <= i < 5 and 0 <= j < 5]
        counted = len([0 for i in rows for j in columns if -1 <= i < 6 and 0 <= j < 6])
        real[n, y, z, c] = max(cells) if mode == "max" else sum(cells) / (counted if mode == "avg" else len(cells))
    np.testing.assert_allclose(evaluate(work, FP32, 32, NO_RANGES, [x]), real, rtol=1e-6, atol=1e-7)
    got = evaluate(work, W8A8, 8, Operands((tq,), tq), [q])
    assert_within_steps(got, real, tq, 1e-3 if mode == "max" else 0.501)


def test_padding_never_wins_a_maximum():
    work = pool("max")
    x = -np.arange(1, 151, dtype=np.float32).reshape(2, 5, 5, 3)
    got = evaluate(work, FP32, 32, NO_RANGES, [x])
    assert (got < 0).all() and got[0, 0, 0].tolist() == [-1, -2, -3]


def test_pool2d_past_the_declared_padding_does_not_count():
    """ceil_mode: the last window reaches 2 cells past the map of which 1 is declared padding."""
    work = pool("avg", kernel=(1, 3), stride=(1, 3), padding=(0, 0, 0, 1), out=(1, 2), size=(1, 4), channels=1)
    assert constants.pool_counts(work).tolist() == [[3, 2]]
    x = np.float32([3, 6, 9, 8]).reshape(1, 1, 4, 1).repeat(2, axis=0)
    assert evaluate(work, FP32, 32, NO_RANGES, [x])[0].ravel().tolist() == [6, 4]


def test_pool_multipliers():
    work = pool("avg", kernel=(2, 2))
    tq = TensorQuant(8, 0.75, 3)
    got = constants.pool_multipliers(work, Operands((tq,), TensorQuant(8, 0.25, 0)))
    assert got.dtype == np.float32
    assert np.array_equal(got, np.float32([0, 3, 1.5, 1, 0.75]))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("activation", ["none", "relu", "clip:-0.5:1.0", "silu"])
def test_add(rng, bits, activation):
    a, a_quant, a_q = ranged(rng, SHAPE, -1, 1, bits)
    b, b_quant, b_q = ranged(rng, SHAPE, -2, 1, bits)
    work = AddWorkload(SHAPE, activation)
    real = evaluate(work, FP32, 32, NO_RANGES, [a, b])
    assert np.array_equal(real, activations.apply(activation, a + b))
    out, pre = affine.tensor_quant(-3, 2, bits), affine.tensor_quant(-3, 2, 8)
    q = evaluate(work, Precision(bits, bits), bits, Operands((a_quant, b_quant), out, pre_activation=pre), [a_q, b_q])
    # a bound quantized to the nearest step may lie half a step away, and so may the value it cuts
    assert_within_steps(q, real, out, 1.01)


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
def test_multiply(rng, broadcast, activation):
    a, a_quant, a_q = ranged(rng, SHAPE, -1, 1)
    b, b_quant, b_q = ranged(rng, (2, 1, 1, 7) if broadcast else SHAPE, 0, 1)
    work = MultiplyWorkload(SHAPE, broadcast, activation)
    real = evaluate(work, FP32, 32, NO_RANGES, [a, b])
    assert np.array_equal(real, activations.apply(activation, a * b))
    out = affine.tensor_quant(-1, 1, 8)
    q = evaluate(work, W8A8, 8, Operands((a_quant, b_quant), out, pre_activation=out), [a_q, b_q])
    assert_within_steps(q, real, out, 0.51 if activation != "tanh" else 1.1)


def test_concat(rng):
    work = ConcatWorkload(6, (3, 5))
    a, a_quant, a_q = ranged(rng, (6, 3), -1, 1)
    b, b_quant, b_q = ranged(rng, (6, 5), -2, 1)
    real = np.concatenate([a, b], axis=1)
    assert np.array_equal(evaluate(work, FP32, 32, NO_RANGES, [a, b]), real)
    out = affine.tensor_quant(-2, 1, 8)
    q = evaluate(work, W8A8, 8, Operands((a_quant, b_quant), out), [a_q, b_q])
    assert_within_steps(q, real, out, 0.51)
    assert np.array_equal(q[:, 3:], b_q)  # same range: nothing changes


def test_activation(rng):
    x, tq, q = ranged(rng, SHAPE, -4, 4)
    out = affine.tensor_quant(-1, 4, 4)
    work = ActivationWorkload(SHAPE, "hard_swish")
    real = evaluate(work, FP32, 32, NO_RANGES, [x])
    got = evaluate(work, Precision(4, 4), 4, Operands((tq,), out), [q])
    assert_within_steps(got, real, out, 0.51)


def test_copy_option_a_shortcut(rng):
    work = CopyWorkload((1, 4, 4, 3), (1, 2, 2, 6), (0, 0, 0, 0), (1, 2, 2, 1), (1, 2, 2, 3), (0, 0, 0, 2))
    x, tq, q = ranged(rng, (1, 4, 4, 3), -1, 1)
    y = evaluate(work, FP32, 32, NO_RANGES, [x])
    assert np.array_equal(y[..., 2:5], x[:, ::2, ::2]) and not y[..., :2].any() and not y[..., 5:].any()
    got = evaluate(work, W8A8, 8, Operands((tq,), tq), [q])
    assert np.array_equal(affine.dequantize(got, tq), y)


@pytest.mark.parametrize("channels_first", [False, True])
def test_convert(rng, channels_first):
    real, tq, q = ranged(rng, SHAPE, -1, 1)
    stored = np.moveaxis(real, -1, 1) if channels_first else real
    operands = Operands((None,), tq)
    assert np.array_equal(evaluate(ConvertWorkload(SHAPE, 32, 8, channels_first), W8A8, 8, operands, [stored]), q)
    back = evaluate(ConvertWorkload(SHAPE, 8, 32, channels_first), W8A8, 32, Operands((tq,), None), [q])
    assert np.array_equal(back, stored) and back.flags.c_contiguous
    layout = evaluate(ConvertWorkload(SHAPE, 32, 32, channels_first), FP32, 32, Operands((None,), None), [stored])
    assert np.array_equal(layout, real)
    narrow = affine.tensor_quant(-1, 1, 3)
    got = evaluate(ConvertWorkload(SHAPE, 8, 3), Precision(3, 3), 3, Operands((tq,), narrow), [q])
    assert np.array_equal(got, affine.quantize(real, narrow))


def test_pad_and_unpad(rng):
    for channels in (1, 3, 4, 5, 16, 17):
        x = rng.integers(0, 256, (2, 3, channels)).astype(np.uint8)
        stored = pad_channels(x, 9)
        assert stored.shape[-1] == padded_channels(channels) and (stored[..., channels:] == 9).all()
        assert np.array_equal(unpad(stored, channels), x)


def test_missing_pieces_are_named():
    x = np.zeros(SHAPE, np.uint8)
    tq = TensorQuant(8, 1.0, 0)
    add = AddWorkload(SHAPE)
    with pytest.raises(InvalidValueError, match="input 1 of an integer operator needs a TensorQuant"):
        evaluate(add, W8A8, 8, Operands((tq, None), tq), [x, x])
    with pytest.raises(InvalidValueError, match="output of 8 bits needs a TensorQuant"):
        evaluate(add, W8A8, 8, Operands((tq, tq), None), [x, x])
    with pytest.raises(InvalidValueError, match="pre_activation"):
        evaluate(AddWorkload(SHAPE, "gelu"), W8A8, 8, Operands((tq, tq), tq), [x, x])
    with pytest.raises(InvalidValueError, match="emit float only after"):
        evaluate(AddWorkload(SHAPE, "gelu"), W8A8, 32, Operands((tq, tq), None), [x, x])
    with pytest.raises(InvalidValueError, match="must be uint8"):
        evaluate(add, W8A8, 8, Operands((tq, tq), tq), [x.astype(np.float32)] * 2)
    with pytest.raises(InvalidValueError, match="'float'"):
        evaluate(FloatWorkload("a", "b"), FP32, 32, NO_RANGES, [])
    with pytest.raises(InvalidValueError, match="needs a weight"):
        evaluate(Conv2dWorkload(1, 1, 1, 1, 1, (1, 1)), W8A8, 8, Operands((tq,), tq), [x])
