"""Activations of float32 with every rounding stated: kernels compute the same bits on any machine.

exp is a range reduction and a polynomial; sigmoid and tanh are built on it. Relative errors against exact arithmetic:
about 2e-7 for exp, 5e-7 for sigmoid and tanh. Whatever multiplies and adds is one fused operation, so that no compiler
can join more or less of it. `kernels/emit/fused_activations.py` writes the same as code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tvm_mpq.numerics.activation_names import parse
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.fma import fma32

EXP_TAIL = (0.50000001, 0.16666519, 0.04166621, 0.00836889, 0.00139505)
"""exp(r) = 1 + r + r^2 * P(r), |r| <= ln(2) / 2, lowest degree first."""

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has few bits, so n * high is exact
LOG2_E = 1.0 / math.log(2.0)

TANH_TAIL = (-0.33333284, 0.13331491, -0.0537435, 0.02065059, -0.00571704)
"""tanh(x) = x + x^3 * P(x^2), |x| < TANH_NEAR."""

TANH_NEAR = 0.625

FARTHEST = 80.0
"""Beyond which exp's argument is limited: both it and its reciprocal stay normal numbers."""


def larger(a: Any, b: Any) -> FloatArray:
    """a where it is larger, else b: so b where either is NaN."""
    return np.asarray(np.where(a > b, a, b), np.float32)


def smaller(a: Any, b: Any) -> FloatArray:
    """a where it is smaller, else b: so b where either is NaN."""
    return np.asarray(np.where(a < b, a, b), np.float32)


def exp(x: FloatArray) -> FloatArray:
    """e^x of float32[...], |x| limited to FARTHEST; NaN stays."""
    x = smaller(FARTHEST, larger(-FARTHEST, x))
    n = np.floor(fma32(x, _constant(LOG2_E), _constant(0.5)))
    r = fma32(n, _constant(-LN2_LOW), fma32(n, _constant(-LN2_HIGH), x))
    near = fma32(_polynomial(r, EXP_TAIL), r * r, r) + np.float32(1)
    return np.asarray(np.ldexp(near, np.nan_to_num(n).astype(np.int32)), np.float32)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + e^-x)."""
    return np.asarray(np.float32(1) / (np.float32(1) + exp(np.float32(0) - x)))


def tanh(x: FloatArray) -> FloatArray:
    """Hyperbolic tangent; a polynomial of its own near zero, where 1 - 2 / (1 + e^2x) cancels."""
    size = larger(x, np.float32(0) - x)
    large = np.float32(1) - np.float32(2) / (np.float32(1) + exp(size + size))
    square = x * x
    small = fma32(x * square, _polynomial(square, TANH_TAIL), x)
    return np.asarray(np.where(size < TANH_NEAR, small, np.where(x < 0, -large, large)), np.float32)


def _leaky_relu(x: FloatArray, alpha: float) -> FloatArray:
    return fma32(smaller(x, 0), _constant(alpha), larger(x, 0))


def _constant(value: float) -> FloatArray:
    return np.asarray(value, np.float32)


def _polynomial(x: FloatArray, coefficients: Sequence[float]) -> FloatArray:
    result = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = fma32(result, x, _constant(c))
    return result


_FORMULAS: dict[str, Callable[..., FloatArray]] = {
    "none": lambda x: x,
    "relu": lambda x: larger(x, 0),
    "clip": lambda x, low, high: smaller(larger(x, np.float32(low)), np.float32(high)),
    "leaky_relu": _leaky_relu,
    "sigmoid": sigmoid,
    "tanh": tanh,
}

NAMES = frozenset(_FORMULAS)
"""Names of those that are defined here, without their numbers."""


def apply(activation: str, x: FloatArray) -> FloatArray:
    """`activation`, a name of `Conv2dWorkload` whose first part is in NAMES, of float32[...]."""
    name, numbers = parse(activation)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _FORMULAS[name](np.asarray(x, np.float32), *numbers)
