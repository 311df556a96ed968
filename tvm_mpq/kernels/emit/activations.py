"""Activations of float32 values as arithmetic without library calls.

exp is a range reduction and a polynomial, tanh and erf are quotients of two polynomials; everything else is built on
exp. They were fitted (iteratively reweighted least squares, relative error) for these ranges. Relative errors against
exact arithmetic: about 2e-7 for exp, 5e-7 for sigmoid and silu, 1e-5 in gelu's far left tail; those of tanh are below 6
units of the last place, of erf below 7, whatever the argument (tests/unit/passes/test_vector_math.py).

What a formula needs twice it names through `bind`: with `let` in kernels, where statements can stand, and by nested
expressions in `passes/vector_math.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit.code import let
from tvm_mpq.kernels.emit.value import Value, clamp, constant, floor, maximum, minimum, select
from tvm_mpq.numerics.activation_names import parse
from tvm_mpq.numerics.fused_activations import EXP_TAIL, LN2_HIGH, LN2_LOW, TANH_FARTHEST, TANH_OVER, TANH_UNDER

Bind = Callable[[Value], Value]

# erfc(z) = t * exp(Q(t) - z^2), t = 1 / (1 + z / 2), z in [0, 14]
_ERFC = (
    -1.26549219, 0.99955497, 0.37855241, 0.07388117, -0.11563362,
    0.14180353, -0.96667352, 1.36102353, -0.76800826, 0.16099205,
)  # fmt: skip

# erf(x) = x * P(x^2) / Q(x^2), |x| <= 3.95, where it is 1 to half a unit of the last place
_ERF_OVER = (
    1.128379225730896, 0.1851690709590912, 0.05427474528551102, 0.003843367798253894,
    0.00037793582305312157, 4.640406586986501e-06, -1.2966916429490993e-08,
)  # fmt: skip
_ERF_UNDER = (
    1.0, 0.49743521213531494, 0.1139109879732132, 0.015443709678947926, 0.0013040605699643493, 6.269224104471505e-05,
)  # fmt: skip
_ERF_FARTHEST = 3.95


def is_known(activation: str) -> bool:
    """Whether `activate` knows the name, with as many finite numbers as it needs."""
    try:
        return all(map(math.isfinite, parse(activation)[1]))
    except InvalidValueError:
        return False


def activate(x: Value, activation: str) -> Value:
    """`activation`, a name of `Conv2dWorkload`, of each element of a float32 vector, computed where this is called.

    Raises InvalidValueError for any other name.
    """
    name, numbers = parse(activation)
    return x if name == "none" else let(_FORMULAS[name](let(x, "x"), *numbers), "activated")


def exp(x: Value, bind: Bind = let) -> Value:
    """e^x, limited to what float32 can hold: below -87.3 it would be subnormal, above 88.7 infinite."""
    rest, n = power_of_e(x, -87.0, 88.0, bind)
    return rest * power_of_two(n)


def power_of_e(x: Value, low: float, high: float, bind: Bind) -> tuple[Value, Value]:
    """A number near 1 and a whole one, e^x = number * 2^whole, x limited to [low, high]. NaN stays in the former."""
    x = bind(minimum(high, maximum(low, x)))
    n = bind(floor(x * (1.0 / math.log(2.0)) + 0.5))
    r = bind((x - n * LN2_HIGH) - n * LN2_LOW)
    return polynomial(r, EXP_TAIL) * (r * r) + r + 1.0, n


def power_of_two(n: Value) -> Value:
    """2^n of whole float32 numbers from -126 to 127."""
    return ((n.cast("int32") + 127) * (1 << 23)).reinterpret("float32", n.lanes)


def sigmoid(x: Value, bind: Bind = let) -> Value:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(0.0 - x, bind))


def tanh(x: Value, bind: Bind = let) -> Value:
    """Hyperbolic tangent, never beyond 1."""
    return _rational(x, TANH_FARTHEST, TANH_OVER, TANH_UNDER, bind)


def erf(x: Value, bind: Bind = let) -> Value:
    """The error function, never beyond 1."""
    return _rational(x, _ERF_FARTHEST, _ERF_OVER, _ERF_UNDER, bind)


def _rational(x: Value, farthest: float, over: Sequence[float], under: Sequence[float], bind: Bind) -> Value:
    """x * P(x^2) / Q(x^2), x limited to +-farthest, the result to +-1; NaN stays."""
    x = bind(minimum(farthest, maximum(-farthest, x)))
    square = bind(x * x)
    y = bind(x * polynomial(square, over) / polynomial(square, under))
    return minimum(1.0, maximum(-1.0, y))


def _erfc(z: Value, bind: Bind) -> tuple[Value, Value]:
    """Two factors of erfc(z), z >= 0."""
    t = bind(1.0 / (1.0 + z * 0.5))
    return t, exp(polynomial(t, _ERFC) - z * z, bind)


def _gelu(x: Value) -> Value:
    # x * erfc(-x / sqrt 2) / 2 through erfc(|z|) alone: the left tail has no cancellation
    t, e = _erfc(let(minimum(maximum(x, 0.0 - x) * math.sqrt(0.5), 9.0)), let)
    left = let(x * 0.5 * t * e)
    return select(x < 0.0, left, x - left)


def _gelu_tanh(x: Value) -> Value:
    scale = -2.0 * math.sqrt(2.0 / math.pi)  # 0.5 * (1 + tanh(u)) = 1 / (1 + exp(-2 u))
    return x / (1.0 + exp(x * (x * x * (scale * 0.044715) + scale)))


def _with_sign_of(x: Value, size: Value) -> Value:
    return select(x < 0.0, 0.0 - size, size)


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Of these coefficients, lowest degree first."""
    result = constant(coefficients[-1], "float32", x.lanes)
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


_FORMULAS: dict[str, Callable[..., Value]] = {
    "relu": lambda x: maximum(x, 0.0),
    "clip": clamp,
    "hard_swish": lambda x: x * clamp(x + 3.0, 0.0, 6.0) * (1 / 6),
    "hard_sigmoid": lambda x: clamp(x * (1 / 6) + 0.5, 0.0, 1.0),
    "sigmoid": sigmoid,
    "silu": lambda x: x / (1.0 + exp(0.0 - x)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": tanh,
    "leaky_relu": lambda x, alpha: maximum(x, 0.0) + minimum(x, 0.0) * alpha,
}
