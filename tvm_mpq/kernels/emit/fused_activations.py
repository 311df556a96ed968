"""Activations of float32 vectors whose every rounding is stated, as `numerics.fused_activations` defines them.

Without an instruction for `fma` each of them is a call: such machines are better served by `emit.activations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_mpq.kernels.emit.activations import power_of_two
from tvm_mpq.kernels.emit.code import let
from tvm_mpq.kernels.emit.value import Value, clamp, constant, floor, fma, maximum, minimum
from tvm_mpq.numerics.activation_names import parse
from tvm_mpq.numerics.fused_activations import (
    EXP_TAIL,
    FARTHEST,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    TANH_FARTHEST,
    TANH_OVER,
    TANH_UNDER,
)


def activate_fused(x: Value, activation: str) -> Value:
    """`activation`, one of `numerics.fused_activations`, of each element of a float32 vector."""
    name, numbers = parse(activation)
    return let(_FORMULAS[name](let(x, "x"), *numbers), "activated")


def _exp(x: Value) -> Value:
    x = let(minimum(FARTHEST, maximum(-FARTHEST, x)))
    n = let(floor(_fma(x, LOG2_E, 0.5)))
    r = let(_fma(n, -LN2_LOW, let(_fma(n, -LN2_HIGH, x))))
    return let((fma(_polynomial(r, EXP_TAIL), let(r * r), r) + 1.0) * power_of_two(n))  # exact: no matter what joins it


def _sigmoid(x: Value) -> Value:
    return 1.0 / (1.0 + _exp(0.0 - x))


def _tanh(x: Value) -> Value:
    x = let(minimum(TANH_FARTHEST, maximum(-TANH_FARTHEST, x)))
    square = let(x * x)
    y = let(let(x * _polynomial(square, TANH_OVER)) / _polynomial(square, TANH_UNDER))
    return minimum(1.0, maximum(-1.0, y))


def _leaky_relu(x: Value, alpha: float) -> Value:
    return _fma(minimum(x, 0.0), alpha, let(maximum(x, 0.0)))


def _fma(a: Value, b: float, c: Value | float) -> Value:
    return fma(a, constant(b, "float32", a.lanes), c if isinstance(c, Value) else constant(c, "float32", a.lanes))


def _polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    result = constant(coefficients[-1], "float32", x.lanes)
    for c in reversed(coefficients[:-1]):
        result = fma(result, x, constant(c, "float32", x.lanes))
    return let(result)


_FORMULAS: dict[str, Callable[..., Value]] = {
    "none": lambda x: x,
    "relu": lambda x: maximum(x, 0.0),
    "clip": clamp,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
}
