"""add, multiply and activations equal numerics.reference, compiled for AVX2 and for this CPU."""

from __future__ import annotations

import numpy as np
import pytest

from mpq_testing.weightless import NO_RANGES, batch, bytes_of, floats_of, quant
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, ActivationWorkload, AddWorkload, MultiplyWorkload, Precision

CHANNELS = (1, 3, 4, 7, 17, 33, 64)
CLAMPS = ("none", "relu", "clip:0.0:1.5")
CURVES = ("hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu", "gelu_tanh", "tanh", "leaky_relu:0.1")


def test_add(rng):
    operands = Operands((quant(8, 0.013, 131), quant(8, 0.05, 255)), quant(8, 0.031, 9))
    with batch() as check:
        for i, channels in enumerate(CHANNELS):
            shape, activation = (1, 3, 5, channels), CLAMPS[i % len(CLAMPS)]
            a, b = bytes_of(rng, shape), bytes_of(rng, shape)
            check(AddWorkload(shape, activation), Precision(8, 8), 8, operands, [a, b])
            check(AddWorkload(shape, activation), FP32, 32, NO_RANGES, [floats_of(rng, shape), floats_of(rng, shape)])


def test_add_of_all_pairs():
    """Each pair of bytes, at scales where halves and near-halves are common."""
    with batch() as check:
        a, b = (np.ascontiguousarray(v.reshape(1, 1, 4096, 16)) for v in np.indices((256, 256)).astype(np.uint8))
        work = AddWorkload(a.shape)
        # with 24 / 37 and 2.5 / 37, hundreds of pairs tell one rounding from two, and which product is rounded
        for s_a, s_b, s_out in ((0.5, 0.25, 1.0), (24.0, 2.5, 37.0), (1e-3, 1.0, 1.0)):
            operands = Operands((quant(8, s_a, 128), quant(8, s_b, 3)), quant(8, s_out, 77))
            check(work, Precision(8, 8), 8, operands, [a, b], threads=(1, 2))


@pytest.mark.parametrize("activation", ["hard_swish", "tanh"])
def test_tables_after_add_and_multiply(rng, activation):
    inputs = quant(8, 0.03, 131), quant(8, 0.05, 7)
    operands = Operands(inputs, quant(8, 0.02, 9), pre_activation=quant(8, 0.041, 120))
    with batch() as check:
        for channels in (3, 33, 72):
            shape, second = (2, 3, 5, channels), (2, 1, 1, channels)
            a, b, c = (bytes_of(rng, s) for s in (shape, shape, second))
            check(AddWorkload(shape, activation), Precision(8, 8), 8, operands, [a, b])
            check(MultiplyWorkload(shape, False, activation), Precision(8, 8), 8, operands, [a, b])
            check(MultiplyWorkload(shape, True, activation), Precision(8, 8), 8, operands, [a, c])


@pytest.mark.parametrize("broadcast", [False, True])
def test_multiply(rng, broadcast):
    operands = Operands((quant(8, 0.013, 131), quant(8, 0.05, 255)), quant(8, 0.11, 200))
    with batch() as check:
        for i, channels in enumerate(CHANNELS):
            shape = (2, 3, 5, channels)
            second = (2, 1, 1, channels) if broadcast else shape
            work = MultiplyWorkload(shape, broadcast, CLAMPS[i % len(CLAMPS)])
            check(work, Precision(8, 8), 8, operands, [bytes_of(rng, shape), bytes_of(rng, second)])
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, shape), floats_of(rng, second)])


def test_float_curves(rng):
    """Vector polynomials against float64: a few units in the last place, more in the far tail of gelu."""
    shape = (1, 3, 5, 7)
    x, y = floats_of(rng, shape), floats_of(rng, shape)
    with batch() as check:
        for activation in CURVES:
            check(ActivationWorkload(shape, activation), FP32, 32, NO_RANGES, [x], rtol=3e-6, atol=3e-7)
        check(AddWorkload(shape, "gelu"), FP32, 32, NO_RANGES, [x, y], rtol=3e-6, atol=3e-7)
        check(MultiplyWorkload(shape, False, "silu"), FP32, 32, NO_RANGES, [x, y], rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
def test_activation_tables(rng, activation):
    operands = Operands((quant(8, 0.05, 100),), quant(8, 0.03, 11))
    with batch() as check:
        for shape in ((1, 3, 5, 3), (1, 1, 1, 1), (7, 10), (2, 9, 33)):
            check(ActivationWorkload(shape, activation), Precision(8, 8), 8, operands, [bytes_of(rng, shape)])


def test_activation_table_of_all_bytes():
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    operands = Operands((quant(8, 0.05, 100),), quant(8, 0.03, 11))
    with batch() as check:
        check(ActivationWorkload(x.shape, "gelu"), Precision(8, 8), 8, operands, [x])
