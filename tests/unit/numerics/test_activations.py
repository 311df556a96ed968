"""Activations in float and as tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import activations, affine
from tvm_mpq.schema import TensorQuant

REFERENCE = {
    "none": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "clip:-1.0:2.5": lambda x: min(max(x, -1.0), 2.5),
    "hard_swish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "hard_sigmoid": lambda x: min(max(x + 3, 0.0), 6.0) / 6,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "tanh": math.tanh,
    "leaky_relu:0.1": lambda x: x if x > 0 else 0.1 * x,
}


@pytest.mark.parametrize("name", REFERENCE)
def test_apply(name):
    x = np.linspace(-9, 9, 181, dtype=np.float32)
    y = activations.apply(name, x)
    assert y.dtype == np.float32
    expected = np.array([REFERENCE[name](float(v)) for v in x])
    # one float32 rounding of a float64 value; erfc above keeps digits that 1 + erf loses below -5
    np.testing.assert_allclose(y, expected, rtol=2e-7, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["relu6", "clip", "clip:1.0", "clip:2.0:1.0", "clip:nan:1.0", "leaky_relu", "leaky_relu:inf", "relu:1", ""]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(InvalidValueError, match="an activation is one of none, relu"):
        activations.parse(name)


def test_clamps():
    assert [n for n in REFERENCE if activations.is_clamp(n)] == ["none", "relu", "clip:-1.0:2.5"]
    assert activations.clamp_bounds("none") == (-math.inf, math.inf)
    assert activations.clamp_bounds("clip:-1.0:2.5") == (-1.0, 2.5)
    with pytest.raises(InvalidValueError, match="have bounds"):
        activations.clamp_bounds("gelu")


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_table(name, bits):
    pre, out = TensorQuant(8, 0.0625, 131), TensorQuant(bits, 0.25, 2)
    table = activations.table(name, pre, out)
    assert table.dtype == np.uint8 and table.shape == (256,)
    real = affine.dequantize(np.arange(256, dtype=np.uint8), pre)
    assert np.array_equal(table, affine.quantize(activations.apply(name, real), out))
    assert table.max() <= 2**bits - 1


def test_requantize_table_to_itself_is_identity():
    tq = TensorQuant(8, 0.1, 7)
    assert np.array_equal(activations.requantize_table(tq, tq), np.arange(256))


def test_curves_do_not_warn_at_the_ends():
    big = np.float32([-3e38, -100.0, 0.0, 100.0, 3e38])
    with np.errstate(all="raise", under="ignore", over="ignore"):
        for name in ("sigmoid", "hard_sigmoid", "tanh"):
            y = activations.apply(name, big)
            assert np.isfinite(y).all() and y[0] == (-1 if name == "tanh" else 0) and y[-1] == 1
