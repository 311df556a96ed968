"""Activation functions as vector code without library calls.

exp is a range reduction and a polynomial; everything else is built on it. Each function rewrites one vector in place.
The polynomials were fitted (iteratively reweighted least squares, relative error) for these ranges. Relative errors
against exact arithmetic: about 2e-7 for exp, 5e-7 for sigmoid, silu and tanh, 1e-5 in gelu's far left tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit.activations import is_known
from tvm_mpq.kernels.float_conv.emit import Emitter, splat, vec

# exp(r) = 1 + r + r^2 * P(r), |r| <= ln(2) / 2, lowest degree first
_EXP_TAIL = (0.50000001, 0.16666519, 0.04166621, 0.00836889, 0.00139505)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has few bits, so n * high is exact

# tanh(x) = x + x^3 * P(x^2), |x| < 0.625
_TANH_TAIL = (-0.33333284, 0.13331491, -0.0537435, 0.02065059, -0.00571704)

# erfc(z) = t * exp(Q(t) - z^2), t = 1 / (1 + z / 2), z in [0, 14]
_ERFC = (
    -1.26549219, 0.99955497, 0.37855241, 0.07388117, -0.11563362,
    0.14180353, -0.96667352, 1.36102353, -0.76800826, 0.16099205,
)  # fmt: skip


class ActivationCode:
    """One activation for vectors of `lanes`: declare() once before the loops, apply() to every accumulator.

    Raises InvalidValueError for a name that `Conv2dWorkload` does not list.
    """

    def __init__(self, emitter: Emitter, activation: str, lanes: int) -> None:
        self._emitter, self._lanes = emitter, lanes
        name, *arguments = activation.split(":")
        if name not in _CODE or not is_known(activation):
            raise InvalidValueError(f"activation must be one of {', '.join(_CODE)} (got {activation!r})")
        self._name, self._arguments = name, [float(a) for a in arguments]

    def declare(self) -> None:
        if self._name in _NEEDS_TEMPORARIES:
            for name in ("act_a", "act_b", "act_c"):
                self._emitter.vector_buffer(name, self._lanes)

    def apply(self, buffer: str) -> None:
        _CODE[self._name](self, buffer, *self._arguments)

    def value(self, buffer: str) -> str:
        return vec(buffer, "0", self._lanes)

    def number(self, value: float) -> str:
        return splat(f"T.float32({value!r})", self._lanes)

    def set(self, buffer: str, text: str) -> None:
        self._emitter.line(f"{self.value(buffer)} = {text}")

    def clamp(self, text: str, low: float, high: float) -> str:
        return f"T.min(T.max({text}, {self.number(low)}), {self.number(high)})"

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        text = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            text = f"({text} * {x} + {self.number(c)})"
        return text

    def exp(self) -> None:
        """act_a = exp(act_a), limited to what float32 can hold; act_b is overwritten."""
        a, b = self.value("act_a"), self.value("act_b")
        integer = "int32" if self._lanes == 1 else f"int32x{self._lanes}"
        floating = integer.replace("int", "float")
        self.set("act_a", self.clamp(a, -87.0, 88.0))
        self.set("act_b", f"T.floor({a} * {self.number(1.0 / math.log(2.0))} + {self.number(0.5)})")
        self.set("act_a", f"({a} - {b} * {self.number(_LN2_HIGH)}) - {b} * {self.number(_LN2_LOW)}")
        power = f'(T.Cast("{integer}", {b}) + {splat("127", self._lanes)}) * {splat("8388608", self._lanes)}'
        body = f"({self.polynomial(a, _EXP_TAIL)} * ({a} * {a}) + {a} + {self.number(1.0)})"
        self.set("act_a", f'{body} * T.reinterpret("{floating}", {power})')


def _none(code: ActivationCode, buffer: str) -> None:
    pass


def _relu(code: ActivationCode, buffer: str) -> None:
    code.set(buffer, f"T.max({code.value(buffer)}, {code.number(0.0)})")


def _clip(code: ActivationCode, buffer: str, low: float, high: float) -> None:
    code.set(buffer, code.clamp(code.value(buffer), low, high))


def _leaky_relu(code: ActivationCode, buffer: str, alpha: float) -> None:
    x = code.value(buffer)
    code.set(buffer, f"T.max({x}, {code.number(0.0)}) + T.min({x}, {code.number(0.0)}) * {code.number(alpha)}")


def _hard_sigmoid(code: ActivationCode, buffer: str) -> None:
    x = code.value(buffer)
    code.set(buffer, code.clamp(f"{x} * {code.number(1 / 6)} + {code.number(0.5)}", 0.0, 1.0))


def _hard_swish(code: ActivationCode, buffer: str) -> None:
    x = code.value(buffer)
    inner = code.clamp(f"{x} + {code.number(3.0)}", 0.0, 6.0)
    code.set(buffer, f"{x} * {inner} * {code.number(1 / 6)}")


def _sigmoid(code: ActivationCode, buffer: str) -> None:
    code.set("act_a", f"{code.number(0.0)} - {code.value(buffer)}")
    code.exp()
    code.set(buffer, f"{code.number(1.0)} / ({code.number(1.0)} + {code.value('act_a')})")


def _silu(code: ActivationCode, buffer: str) -> None:
    code.set("act_a", f"{code.number(0.0)} - {code.value(buffer)}")
    code.exp()
    code.set(buffer, f"{code.value(buffer)} / ({code.number(1.0)} + {code.value('act_a')})")


def _gelu_tanh(code: ActivationCode, buffer: str) -> None:
    x, scale = code.value(buffer), -2.0 * math.sqrt(2.0 / math.pi)  # 0.5 * (1 + tanh(u)) = 1 / (1 + exp(-2 u))
    code.set("act_a", f"{x} * ({x} * {x} * {code.number(scale * 0.044715)} + {code.number(scale)})")
    code.exp()
    code.set(buffer, f"{x} / ({code.number(1.0)} + {code.value('act_a')})")


def _gelu(code: ActivationCode, buffer: str) -> None:
    # x * erfc(-x / sqrt 2) / 2 through erfc(|z|) alone: the left tail has no cancellation
    x, a, c = code.value(buffer), code.value("act_a"), code.value("act_c")
    code.set(
        "act_a", f"T.min(T.max({x}, {code.number(0.0)} - {x}) * {code.number(math.sqrt(0.5))}, {code.number(9.0)})"
    )
    code.set("act_c", f"{code.number(1.0)} / ({code.number(1.0)} + {a} * {code.number(0.5)})")
    code.set("act_a", f"{code.polynomial(c, _ERFC)} - {a} * {a}")
    code.exp()
    code.set("act_a", f"{x} * {code.number(0.5)} * {c} * {a}")
    code.set(buffer, f"T.Select({x} < {code.number(0.0)}, {a}, {x} - {a})")


def _tanh(code: ActivationCode, buffer: str) -> None:
    x, a, c = code.value(buffer), code.value("act_a"), code.value("act_c")
    code.set("act_c", f"T.max({x}, {code.number(0.0)} - {x})")
    code.set("act_a", f"{c} + {c}")
    code.exp()
    code.set("act_a", f"{code.number(1.0)} - {code.number(2.0)} / ({code.number(1.0)} + {a})")
    code.set("act_a", f"T.Select({x} < {code.number(0.0)}, {code.number(0.0)} - {a}, {a})")
    small = f"{x} + {x} * ({x} * {x}) * {code.polynomial(f'({x} * {x})', _TANH_TAIL)}"
    code.set(buffer, f"T.Select({c} < {code.number(0.625)}, {small}, {a})")


_CODE: dict[str, Callable[..., None]] = {
    "none": _none,
    "relu": _relu,
    "clip": _clip,
    "hard_swish": _hard_swish,
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": _tanh,
    "leaky_relu": _leaky_relu,
}
_NEEDS_TEMPORARIES = frozenset({"sigmoid", "silu", "gelu", "gelu_tanh", "tanh"})
