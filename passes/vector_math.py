"""exp, erf, tanh and sigmoid of float32 as polynomials inside TIR: `T.exp(x)` -> arithmetic that LLVM vectorizes.

Left as they are, these intrinsics become one library call per element. Relative errors stay below 1e-6 (erf of large
arguments: below 1e-7 absolute). Other types and other functions are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.tirx import PrimFunc

# exp(r) = 1 + r + r^2 * P(r), |r| <= ln(2) / 2, lowest degree first
_EXP_TAIL = (0.50000001, 0.16666519, 0.04166621, 0.00836889, 0.00139505)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has few bits, so n * high is exact

# tanh(x) = x + x^3 * P(x^2), |x| < 0.625
_TANH_TAIL = (-0.33333284, 0.13331491, -0.0537435, 0.02065059, -0.00571704)

# erfc(z) = t * exp(Q(t) - z^2), t = 1 / (1 + z / 2), z >= 0
_ERFC = (
    -1.26549219, 0.99955497, 0.37855241, 0.07388117, -0.11563362,
    0.14180353, -0.96667352, 1.36102353, -0.76800826, 0.16099205,
)  # fmt: skip

# erf(x) = x * P(x^2), |x| < 0.5: the first terms of its series, times 2 / sqrt(pi)
_ERF_SERIES = tuple(2.0 / math.sqrt(math.pi) * (-1.0) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(7))


def replace_math_calls(func: PrimFunc) -> PrimFunc:
    """A new function whose float32 exp, erf, tanh and sigmoid are arithmetic; the caller's stays as it is."""
    return tvm_ffi.structural_map(func, (ir.Call, _replaced))


_FLOAT32 = ir.PrimType("float32")


def _replaced(call: Any) -> Any:
    rule = _RULES.get(getattr(call.op, "name", ""))
    if rule is None or call.ty != _FLOAT32:
        return call
    return _bound(call.args[0], rule)


def _bound(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body` of a variable that stands for `value`, so that it is computed once."""
    variable = tirx.Var("v", "float32")
    return tirx.Let(variable, value, body(variable))


def _f(value: float) -> Any:
    return tirx.const(value, "float32")


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    result = _f(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + _f(c)
    return result


def _with_sign_of(x: Any, size: Any) -> Any:
    return _bound(size, lambda s: tirx.Select(x < _f(0.0), _f(0.0) - s, s))


def _exp(x: Any) -> Any:
    # below -87.3 the result would be subnormal, above 88.7 infinite: limited to what the exponent bits can hold
    def reduced(limited: Any) -> Any:
        return _bound(tirx.floor(limited * _f(1.0 / math.log(2.0)) + _f(0.5)), lambda n: scaled(limited, n))

    def scaled(limited: Any, n: Any) -> Any:
        exponent = (tirx.Cast("int32", n) + tirx.const(127, "int32")) * tirx.const(1 << 23, "int32")
        power = tirx.reinterpret("float32", exponent)
        rest = (limited - n * _f(_LN2_HIGH)) - n * _f(_LN2_LOW)
        return _bound(rest, lambda r: (_polynomial(r, _EXP_TAIL) * (r * r) + r + _f(1.0)) * power)

    return _bound(tirx.min(tirx.max(x, _f(-87.0)), _f(88.0)), reduced)


def _sigmoid(x: Any) -> Any:
    return _f(1.0) / (_f(1.0) + _exp(_f(0.0) - x))


def _tanh(x: Any) -> Any:
    def body(size: Any) -> Any:
        large = _f(1.0) - _f(2.0) / (_f(1.0) + _exp(size + size))
        small = x + x * (x * x) * _polynomial(x * x, _TANH_TAIL)
        return tirx.Select(size < _f(0.625), small, _with_sign_of(x, large))

    return _bound(tirx.max(x, _f(0.0) - x), body)


def _erf(x: Any) -> Any:
    def body(size: Any) -> Any:
        return _bound(_f(1.0) / (_f(1.0) + size * _f(0.5)), lambda t: joined(size, t))

    def joined(size: Any, t: Any) -> Any:
        large = _f(1.0) - t * _exp(_polynomial(t, _ERFC) - size * size)
        small = x * _polynomial(x * x, _ERF_SERIES)
        return tirx.Select(size < _f(0.5), small, _with_sign_of(x, large))

    return _bound(tirx.min(tirx.max(x, _f(0.0) - x), _f(9.0)), body)


_RULES: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": _exp,
    "tirx.erf": _erf,
    "tirx.tanh": _tanh,
    "tirx.sigmoid": _sigmoid,
}
