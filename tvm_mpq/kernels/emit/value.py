"""Values of generated code: scalars and vectors with Python's operators, typed by element and lanes.

A `Value` wraps one TIR expression. A Python number beside a value takes its type, a scalar beside a vector is
broadcast, so code reads as arithmetic: `acc + x * 2`. Two values must have the same dtype (else TypeError). Indices are
int32 scalars; Python integers serve as well, and TVM folds constants.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tvm
from tvm.tirx.script import builder as T

Index: TypeAlias = "Value | int"
"""An int32 scalar: a position in a flat buffer, an extent, a loop's bound."""

Operand: TypeAlias = "Value | int | float"


class Value:
    """One expression: `lanes` elements of `dtype` (TVM's name, such as `uint8`), a scalar where lanes is 1."""

    __slots__ = ("dtype", "expr", "lanes")

    def __init__(self, expr: Any, dtype: str, lanes: int = 1) -> None:
        self.expr, self.dtype, self.lanes = expr, dtype, lanes

    def __add__(self, other: Operand) -> Value:
        return _binary(operator.add, self, other)

    def __radd__(self, other: Operand) -> Value:
        return _binary(operator.add, other, self)

    def __sub__(self, other: Operand) -> Value:
        return _binary(operator.sub, self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _binary(operator.sub, other, self)

    def __mul__(self, other: Operand) -> Value:
        return _binary(operator.mul, self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _binary(operator.mul, other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _binary(operator.truediv, self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _binary(operator.truediv, other, self)

    def __floordiv__(self, other: Operand) -> Value:
        return _binary(operator.floordiv, self, other)

    def __mod__(self, other: Operand) -> Value:
        return _binary(operator.mod, self, other)

    def __lt__(self, other: Operand) -> Value:
        return _binary(operator.lt, self, other, "bool")

    def __le__(self, other: Operand) -> Value:
        return _binary(operator.le, self, other, "bool")

    def __gt__(self, other: Operand) -> Value:
        return _binary(operator.gt, self, other, "bool")

    def __ge__(self, other: Operand) -> Value:
        return _binary(operator.ge, self, other, "bool")

    def __and__(self, other: Operand) -> Value:
        return _binary(T.bitwise_and, self, other)

    def __or__(self, other: Operand) -> Value:
        return _binary(T.bitwise_or, self, other)

    def __xor__(self, other: Operand) -> Value:
        return _binary(T.bitwise_xor, self, other)

    def __lshift__(self, other: Operand) -> Value:
        return _binary(T.shift_left, self, other)

    def __rshift__(self, other: Operand) -> Value:
        return _binary(T.shift_right, self, other)

    def __bool__(self) -> bool:
        raise TypeError("a value of generated code has no truth while the code is written: use when() or select()")

    def cast(self, dtype: str) -> Value:
        """Each element converted to `dtype` as C does it."""
        return Value(T.Cast(type_name(dtype, self.lanes), self.expr), dtype, self.lanes)

    def reinterpret(self, dtype: str, lanes: int) -> Value:
        """The same bits as `lanes` elements of `dtype`."""
        return Value(T.reinterpret(type_name(dtype, lanes), self.expr), dtype, lanes)

    def broadcast(self, lanes: int) -> Value:
        """A scalar in every one of `lanes`."""
        return self if lanes == 1 else Value(T.Broadcast(self.expr, lanes), self.dtype, lanes)

    def lanes_of(self, order: Sequence[int]) -> Value:
        """The lanes `order` of this vector, in that order."""
        return shuffle([self], order)


def type_name(dtype: str, lanes: int) -> str:
    """TVM's name of a vector type.

    >>> type_name("int32", 16), type_name("uint8", 1)
    ('int32x16', 'uint8')
    """
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def constant(value: float, dtype: str, lanes: int = 1) -> Value:
    """`value` as `dtype` in every lane. Raises TypeError for a fraction as an integer."""
    if "float" not in dtype and value != int(value):
        raise TypeError(f"a number beside {dtype} must be whole (got {value}): cast the value to float32")
    return Value(tvm.tirx.const(value, dtype), dtype).broadcast(lanes)


def raw(index: Index) -> Any:
    """What TVM's builder takes for an index."""
    return index.expr if isinstance(index, Value) else index


def minimum(a: Operand, b: Operand) -> Value:
    """The smaller of each pair of elements."""
    return _binary(T.min, a, b)


def maximum(a: Operand, b: Operand) -> Value:
    """The larger of each pair of elements."""
    return _binary(T.max, a, b)


def clamp(x: Value, low: Operand, high: Operand) -> Value:
    """Each element of `x`, limited to [low, high]."""
    return minimum(maximum(x, low), high)


def select(condition: Value, yes: Value, no: Value) -> Value:
    """`yes` where the condition holds, else `no`, lane by lane; both are computed."""
    return Value(T.Select(condition.expr, yes.expr, no.expr), yes.dtype, yes.lanes)


def if_then_else(condition: Value, yes: Index, no: Index) -> Value:
    """One of two indices; only the chosen one is computed."""
    return Value(T.if_then_else(condition.expr, raw(yes), raw(no)), "int32")


def both(a: Value, b: Value) -> Value:
    """Whether both conditions hold."""
    return Value(T.And(a.expr, b.expr), "bool", a.lanes)


def within(low: int, x: Index, high: Index) -> Value:
    """low <= x < high."""
    return Value(T.And(tvm.tirx.LE(tvm.tirx.const(low, "int32"), raw(x)), raw(x) < raw(high)), "bool")


def equal(a: Value, b: Operand) -> Value:
    """Whether elements are equal. (`==` compares Python objects.)"""
    return _binary(tvm.tirx.EQ, a, b, "bool")


def shuffle(vectors: Sequence[Value], order: Sequence[int]) -> Value:
    """The lanes `order` of the vectors laid one after the other; scalars may be gathered to a vector."""
    return Value(T.Shuffle([v.expr for v in vectors], list(order)), vectors[0].dtype, len(order))


def ramp(start: Index, lanes: int, stride: int = 1) -> Value:
    """start, start + stride, … in `lanes` lanes."""
    return Value(T.Ramp(raw(start), stride, lanes), "int32", lanes)


def intrinsic(name: str, dtype: str, lanes: int, *args: Value) -> Value:
    """A call of the LLVM intrinsic `name`, without side effects."""
    found = T.llvm_lookup_intrinsic_id(name)
    call = T.call_llvm_pure_intrin(type_name(dtype, lanes), found, *(a.expr for a in args))
    return Value(call, dtype, lanes)


def external(name: str, dtype: str, lanes: int, *args: Value) -> Value:
    """A call of a function without side effects that LLVM code imported by the kernel defines."""
    return Value(T.call_pure_extern(type_name(dtype, lanes), name, *(a.expr for a in args)), dtype, lanes)


def _elementwise(function: Callable[[Any], Any], x: Value) -> Value:
    """One of TVM's functions of one argument, such as floor or sqrt, on each element."""
    return Value(function(x.expr), x.dtype, x.lanes)


def floor(x: Value) -> Value:
    """The largest whole number not above each element."""
    return _elementwise(T.floor, x)


def sqrt(x: Value) -> Value:
    """The square root of each element."""
    return _elementwise(T.sqrt, x)


def popcount(x: Value) -> Value:
    """How many bits of each element are set."""
    return _elementwise(T.popcount, x)


def fma(a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once."""
    return intrinsic("llvm.fma", a.dtype, a.lanes, a, b, c)


def _binary(op: Callable[[Any, Any], Any], a: Operand, b: Operand, dtype: str = "") -> Value:
    like = a if isinstance(a, Value) and (not isinstance(b, Value) or a.lanes >= b.lanes) else b
    assert isinstance(like, Value), "two Python numbers: compute them in Python"
    return Value(op(_as(a, like), _as(b, like)), dtype or like.dtype, like.lanes)


def _as(x: Operand, like: Value) -> Any:
    """The expression of `x` with the type of `like`."""
    if isinstance(x, Value):
        if x.dtype != like.dtype:
            raise TypeError(f"operands must be of one type (got {x.dtype} and {like.dtype}): cast one of them")
        return x.expr if x.lanes == like.lanes else T.Broadcast(x.expr, like.lanes)
    if like.dtype == "int32" and like.lanes == 1 and isinstance(x, int):
        return x  # TVM folds index arithmetic
    return constant(x, like.dtype, like.lanes).expr
