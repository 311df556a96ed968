"""Activations of float32 with every rounding stated: kernels compute the same bits on any machine.

exp is a range reduction and a polynomial, sigmoid is built on it, tanh is a quotient of two polynomials. Errors against
exact arithmetic are below 3 units of the last place, for tanh below 6. Whatever multiplies and adds is one fused
operation, so that no compiler can join more or less of it. `kernels/emit/fused_activations.py` writes the same as code.
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

TANH_OVER = (
    1.0, 0.13676147162914276, 0.003863605437800288, 2.791217775666155e-05, 3.0356058999814195e-08,
    -1.2033985787029966e-11,
)  # fmt: skip
TANH_UNDER = (1.0, 0.47009479999542236, 0.02722855657339096, 0.00039303049561567605, 1.2807108760171104e-06)
"""tanh(x) = x * P(x^2) / Q(x^2), |x| <= TANH_FARTHEST: the polynomials of the numerator and of the denominator."""

TANH_FARTHEST = 9.1
"""From here on it is 1 to half a unit of the last place."""

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
    """Hyperbolic tangent, never beyond 1; NaN stays."""
    x = smaller(TANH_FARTHEST, larger(-TANH_FARTHEST, x))
    square = x * x
    y = x * _polynomial(square, TANH_OVER) / _polynomial(square, TANH_UNDER)
    return smaller(1, larger(-1, y))


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
