"""Activation functions: recognised in the forms importers write them, and written in one form.

The texts are those of `schema.Conv2dWorkload.activation`. A decomposed activation such as x * clip(x + 3, 0, 6) / 6 is
read as a product of factors whose inner arguments are polynomials in x, so the order in which an importer multiplies
and divides does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import relax

from tvm_mpq.passes.normalize.exprs import number, op_name

_SINGLE = {
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    "relax.nn.silu": "silu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
}
_ROOT_2_BY_PI = math.sqrt(2.0 / math.pi)
_GELU_TANH = {1: _ROOT_2_BY_PI, 3: 0.044715 * _ROOT_2_BY_PI}
_DEEPEST = 9  # operators from the root of gelu_tanh down to its x


@dataclass(frozen=True)
class Activation:
    """`root` = act(x); `inner` are the variables between the two."""

    x: relax.Var
    text: str
    root: relax.Var
    inner: frozenset[relax.Var]


def find_activation(root: relax.Var, values: Mapping[relax.Var, relax.Expr]) -> Activation | None:
    """The activation whose result is `root`; values = the expression of every variable."""
    value = values[root]
    name = op_name(value)
    if name in _SINGLE:
        x, text = value.args[0], _SINGLE[name]
    elif name == "relax.nn.leakyrelu":
        x, text = value.args[0], f"leaky_relu:{float(value.attrs.alpha)}"
    elif name == "relax.nn.prelu" and number(value.args[1]) is not None:
        x, text = value.args[0], f"leaky_relu:{number(value.args[1])}"
    else:
        return _composed(root, values) or _clamp(root, values)
    return Activation(x, text, root, frozenset()) if isinstance(x, relax.Var) else None


def build_activation(text: str, x: relax.Expr, emit: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """act(x) in Relax operators; `emit` binds an intermediate expression."""
    op = relax.op
    name, *numbers = text.split(":")
    values = [float(v) for v in numbers]
    if name == "clip":
        return emit(op.clip(x, *values))
    if name == "leaky_relu":
        return emit(op.nn.leakyrelu(x, values[0]))
    if name in ("hard_swish", "hard_sigmoid"):
        three, six = relax.const(3.0, "float32"), relax.const(6.0, "float32")
        gate = emit(op.divide(emit(op.clip(emit(op.add(x, three)), 0.0, 6.0)), six))
        return emit(op.multiply(x, gate)) if name == "hard_swish" else gate
    simple = {"relu": op.nn.relu, "sigmoid": op.sigmoid, "tanh": op.tanh, "silu": op.nn.silu}
    simple |= {"gelu": op.nn.gelu, "gelu_tanh": op.nn.gelu_tanh}
    return emit(simple[name](x))


def _clamp_step(value: relax.Expr | None) -> tuple[relax.Expr, float, float] | None:
    """(x, lo, hi) of one operator that clamps x."""
    name = op_name(value)
    if value is None or not name:
        return None
    if name == "relax.nn.relu":
        return value.args[0], 0.0, math.inf
    if name == "relax.nn.relu6":
        return value.args[0], 0.0, 6.0
    if name == "relax.clip":
        low, high = number(value.args[1]), number(value.args[2])
        return None if low is None or high is None else (value.args[0], low, high)
    if name in ("relax.maximum", "relax.minimum"):
        for x, bound in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
            c = number(bound)
            if c is not None and isinstance(x, relax.Var):
                return (x, c, math.inf) if name == "relax.maximum" else (x, -math.inf, c)
    return None


def _clamps(
    root: relax.Expr, values: Mapping[relax.Var, relax.Expr]
) -> Iterator[tuple[relax.Var, float, float, frozenset[relax.Var]]]:
    """Ever longer chains of clamps that end in `root`: (x, lo, hi, variables between x and root)."""
    low, high = -math.inf, math.inf
    inner: list[relax.Var] = []
    var = root
    while isinstance(var, relax.Var) and (step := _clamp_step(values.get(var))) is not None:
        x, lo, hi = step
        if not isinstance(x, relax.Var):
            return
        low, high = min(max(lo, low), high), max(min(hi, high), low)
        yield x, low, high, frozenset(inner)
        inner.append(x)
        var = x


def _clamp(root: relax.Var, values: Mapping[relax.Var, relax.Expr]) -> Activation | None:
    """The longest chain of clamps whose bounds are those of relu, or finite."""
    found = None
    for x, low, high, inner in _clamps(root, values):
        if (low, high) == (0.0, math.inf):
            found = Activation(x, "relu", root, inner)
        elif math.isfinite(low) and math.isfinite(high):
            found = Activation(x, f"clip:{low}:{high}", root, inner)
    return found


def _composed(root: relax.Var, values: Mapping[relax.Var, relax.Expr]) -> Activation | None:
    """An activation of several operators: try every variable above the root as its x."""
    if op_name(values[root]) not in ("relax.multiply", "relax.divide", "relax.clip", "relax.minimum", "relax.maximum"):
        return None
    candidates: dict[relax.Var, None] = {}
    level = [root]
    for _ in range(_DEEPEST):
        above = [a for v in level for a in getattr(values.get(v), "args", ()) if isinstance(a, relax.Var)]
        level = [v for v in dict.fromkeys(above) if v not in candidates]
        candidates.update(dict.fromkeys(level))
    for x in candidates:
        reading = _Reading(x, values)
        text = reading.text(root)
        if text is not None:
            return Activation(x, text, root, frozenset(reading.seen - {root, x}))
    return None


@dataclass
class _Reading:
    """Reads an expression as a function of x; `seen` collects the variables that were looked through."""

    x: relax.Var
    values: Mapping[relax.Var, relax.Expr]
    seen: set[relax.Var] = field(default_factory=set)

    def text(self, root: relax.Var) -> str | None:
        leaky = self._leaky(root)
        if leaky is not None:
            return leaky
        factor, factors = self._product(root)
        others = [f for f in factors if not f.same_as(self.x)]
        with_x = len(factors) - len(others)
        if len(others) != 1 or with_x > 1:
            return None
        value = self._value(others[0])
        if op_name(value) == "relax.sigmoid" and with_x == 1:
            return "silu" if _close(factor, 1.0) and value.args[0].same_as(self.x) else None
        for x, low, high, inner in _clamps(others[0], self.values) if factor > 0 else ():
            if self._is_hard_sigmoid(x, low, high, factor):
                self.seen |= inner
                return "hard_swish" if with_x else "hard_sigmoid"
        return self._gelu(value) if op_name(value) == "relax.add" and with_x == 1 and _close(factor, 0.5) else None

    def _value(self, var: relax.Expr) -> Any:
        if not isinstance(var, relax.Var) or var not in self.values:
            return None
        self.seen.add(var)
        return self.values[var]

    def _product(self, expr: relax.Expr) -> tuple[float, list[relax.Expr]]:
        """expr = factor * product of the list."""
        constant = number(expr)
        if constant is not None:
            return constant, []
        if expr.same_as(self.x):
            return 1.0, [expr]
        value = self.values.get(expr)
        name = op_name(value)
        if name == "relax.multiply" and value is not None:
            self.seen.add(expr)
            (a, left), (b, right) = self._product(value.args[0]), self._product(value.args[1])
            return a * b, left + right
        divisor = number(value.args[1]) if name == "relax.divide" and value is not None else None
        if divisor and value is not None:
            self.seen.add(expr)
            a, left = self._product(value.args[0])
            return a / divisor, left
        return 1.0, [expr]

    def _is_hard_sigmoid(self, inside: relax.Var, low: float, high: float, factor: float) -> bool:
        """factor * clip(inside, low, high) = clip(x / 6 + 1/2, 0, 1)."""
        seen = set(self.seen)
        polynomial = self._polynomial(inside)
        if polynomial is not None and set(polynomial) <= {0, 1}:
            got = [factor * v for v in (polynomial.get(1, 0.0), polynomial.get(0, 0.0), low, high)]
            if all(_close(g, w) for g, w in zip(got, (1 / 6, 0.5, 0.0, 1.0), strict=True)):
                return True
        self.seen = seen
        return False

    def _gelu(self, value: relax.Expr) -> str | None:
        """1 + erf(x / sqrt 2), or 1 + tanh(...)."""
        for one, gate in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
            inner: Any = self._value(gate) if number(one) == 1.0 else None
            if op_name(inner) not in ("relax.erf", "relax.tanh"):
                continue
            polynomial = self._polynomial(inner.args[0]) or {}
            if op_name(inner) == "relax.erf":
                return "gelu" if _equal(polynomial, {1: math.sqrt(0.5)}) else None
            return "gelu_tanh" if _equal(polynomial, _GELU_TANH) else None
        return None

    def _leaky(self, root: relax.Var) -> str | None:
        """maximum(x, alpha * x), 0 < alpha < 1."""
        value = self.values.get(root)
        if op_name(value) != "relax.maximum" or value is None:
            return None
        for x, scaled in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
            if not x.same_as(self.x) or number(scaled) is not None:
                continue
            polynomial = self._polynomial(scaled) or {}
            if set(polynomial) == {1} and 0 < polynomial[1] < 1:
                return f"leaky_relu:{polynomial[1]}"
        return None

    def _polynomial(self, expr: relax.Expr, depth: int = 0) -> dict[int, float] | None:
        """Coefficients by power of x; None when the expression is no polynomial in x."""
        constant = number(expr)
        if constant is not None:
            return {0: constant}
        if expr.same_as(self.x):
            return {1: 1.0}
        value = self._value(expr)
        name = op_name(value)
        if value is None or depth > _DEEPEST:
            return None
        if name == "relax.power":
            exponent = number(value.args[1])
            base = self._polynomial(value.args[0], depth + 1)
            return None if base != {1: 1.0} or exponent not in (2.0, 3.0) else {int(exponent): 1.0}
        if name == "relax.square":
            base = self._polynomial(value.args[0], depth + 1)
            return None if base is None else _multiply(base, base)
        if name not in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
            return None
        a, b = (self._polynomial(arg, depth + 1) for arg in value.args)
        if a is None or b is None:
            return None
        if name == "relax.multiply":
            return _multiply(a, b)
        if name == "relax.divide":
            return _multiply(a, {0: 1 / b[0]}) if set(b) == {0} and b[0] else None
        sign = 1.0 if name == "relax.add" else -1.0
        return {p: a.get(p, 0.0) + sign * b.get(p, 0.0) for p in {*a, *b}}


def _multiply(a: dict[int, float], b: dict[int, float]) -> dict[int, float]:
    product: dict[int, float] = {}
    for p, u in a.items():
        for q, v in b.items():
            product[p + q] = product.get(p + q, 0.0) + u * v
    return product


def _close(a: float, b: float) -> bool:
    """Equal up to how importers round the constants of activations."""
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)


def _equal(a: dict[int, float], b: dict[int, float]) -> bool:
    return all(_close(a.get(p, 0.0), b.get(p, 0.0)) for p in {*a, *b})
