"""exp, log, sin and cos over all of float32 as arithmetic without library calls or branches, which LLVM vectorizes.

Errors against exact arithmetic, in units of the last place of the result: exp and log 2, sin and cos 2.5, whatever the
argument (tests/unit/passes/test_vector_math.py). exp of less than -87.33 is 0 (it would be subnormal). NaN gives NaN,
and so do logarithms of negative numbers, and sines of infinity. Polynomials were fitted by iteratively reweighted least
squares.
"""

from __future__ import annotations

import itertools
import math

from tvm_mpq.kernels.emit.activations import Bind, polynomial, power_of_e, power_of_two
from tvm_mpq.kernels.emit.code import let
from tvm_mpq.kernels.emit.value import Value, constant, equal, floor, minimum, select

# log(1 + f) = f - f^2 / 2 + f^3 * P(f), sqrt(1/2) <= 1 + f < sqrt(2)
_LOG_TAIL = (
    0.33333313, -0.2500001, 0.20002119, -0.16667996, 0.1421955, -0.1240559, 0.11888178, -0.11675653, 0.06746608,
)  # fmt: skip
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4

# sin(r) = r + r^3 * P(r^2), cos(r) = 1 - r^2 / 2 + r^4 * Q(r^2), |r| <= pi / 4
_SIN_TAIL = (-0.16666655, 0.00833216, -0.00019515)
_COS_TAIL = (4.16666457e-02, -1.38873150e-03, 2.44330065e-05)

_HALF_PI = (1.5703125, 0.0004837512969970703, 7.549533620476723e-08, 2.5633440682570896e-12)
"""pi / 2 in parts; products of the first three with whole numbers below 2^13 are exact."""

_LARGE = 4096.0
"""From here on, quadrants are found by whole numbers."""

_TWO_BY_PI = (0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)
"""2 / pi in words of 32 bits, one word of zeros before the point."""

_INFINITY, _NAN = 0x7F800000, 0x7FC00000


def exp(x: Value, bind: Bind = let) -> Value:
    """e^x: infinite above 88.72, 0 below -87.33."""
    x = bind(x)
    rest, n = power_of_e(x, -87.4, 88.8, bind)
    held = bind(minimum(n, 127.0))  # 2^128 is no float32, though half of it times two may be less
    result = bind(rest * power_of_two(held) * (n - held + 1.0))
    return select(x < -87.33654, _float(0.0, x), select(x > 88.72283, _number(_INFINITY, x), result))


def log(x: Value, bind: Bind = let) -> Value:
    """The natural logarithm; -infinity of 0."""
    x = bind(x)
    small = bind(x < 1.17549435e-38)
    bits = bind(select(small, x * 8388608.0, x).reinterpret("int32", x.lanes))
    # The exponent that leaves a mantissa from sqrt(1/2) to sqrt(2).
    exponent = bind((bits - 0x3F3504F3) >> 23)
    mantissa = (bits - (exponent << 23)).reinterpret("float32", x.lanes)
    n = bind(exponent.cast("float32") - select(small, _float(23.0, x), _float(0.0, x)))
    f = bind(mantissa - 1.0)
    square = bind(f * f)
    tail = n * _LN2_LOW + polynomial(f, _LOG_TAIL) * f * square - square * 0.5
    result = bind(tail + f + n * _LN2_HIGH)
    outside = select(equal(x, 0.0), _number(0xFF800000, x), _number(_NAN, x))
    finite = bind(select(x < 1.17549435e-38, select(x > 0.0, result, outside), result))
    # Infinity and NaN are what they were.
    return select(x < _number(_INFINITY, x), finite, x)


def sin(x: Value, bind: Bind = let) -> Value:
    """The sine of x radians."""
    bits = bind(bind(x).reinterpret("uint32", x.lanes))
    quadrant, r, finite = _reduced(bits, bind)
    return _of_quadrant(quadrant, r, finite, bits & 0x80000000, bind)


def cos(x: Value, bind: Bind = let) -> Value:
    """The cosine of x radians: the sine one quadrant later, of |x|."""
    bits = bind(bind(x).reinterpret("uint32", x.lanes))
    quadrant, r, finite = _reduced(bits, bind)
    return _of_quadrant(bind(quadrant + 1), r, finite, constant(0, "uint32", x.lanes), bind)


def _of_quadrant(quadrant: Value, r: Value, finite: Value, sign: Value, bind: Bind) -> Value:
    square = bind(r * r)
    sine = r + r * square * polynomial(square, _SIN_TAIL)
    cosine = 1.0 - square * 0.5 + square * square * polynomial(square, _COS_TAIL)
    chosen = select(equal(quadrant & 1, 0), sine, cosine)
    flipped = chosen.reinterpret("uint32", r.lanes) ^ (sign ^ ((quadrant & 2) << 30))
    return select(finite, flipped.reinterpret("float32", r.lanes), _number(_NAN, r))


def _reduced(bits: Value, bind: Bind) -> tuple[Value, Value, Value]:
    """For |x| of these bits: its quadrant, uint32 from 0 to 5000; what is left of it, |r| <= pi / 4; whether finite."""
    bits = bind(bits & 0x7FFFFFFF)
    size = bind(bits.reinterpret("float32", bits.lanes))
    large = bind(size >= _LARGE)
    turns = bind(floor(select(large, _float(0.0, size), size) * (2 / math.pi) + 0.5))
    near = size
    for part in _HALF_PI:
        near = near - turns * part
    quadrant, far = _of_large(bits, bind)
    chosen = bind(select(large, quadrant, turns.cast("int32").cast("uint32")))
    return chosen, bind(select(large, far, near)), bind(bits < _INFINITY)


def _of_large(bits: Value, bind: Bind) -> tuple[Value, Value]:
    """x * 2 / pi with the 94 bits of 2 / pi that matter to x, |x| >= 4096: multiples of four turns are left out.

    After Payne and Hanek. The product stands in 62 bits of a whole number, two of them the quadrant's.
    """
    mantissa = bind(((bits & 0x7FFFFF) | 0x800000).cast("uint64"))
    exponent = bind(bits >> 23)  # x is mantissa * 2 ^ (exponent - 150); from 139 on
    place = bind(select(exponent < 139, constant(17, "uint32", bits.lanes), exponent - 122))
    which, shift = bind(place >> 5), bind(place & 31)
    back = bind(31 - shift)
    words = [bind(_chosen(which, first)) for first in range(4)]
    high, middle, low = (bind(((a << shift) | ((b >> 1) >> back)).cast("uint64")) for a, b in itertools.pairwise(words))
    total = bind((((mantissa * high) & 0x3FFFFFFF) << 32) + mantissa * middle + ((mantissa * low) >> 32))
    top = bind(((total >> 32) & 0x3FFFFFFF).cast("int32"))  # in units of 2^-28 quadrants
    quadrant = bind((top + (1 << 27)) >> 28)
    rest = bind(top - (quadrant << 28))
    coarse = bind(((rest + 128) >> 8) << 8)
    fine = (rest - coarse).cast("float32") + ((total >> 8) & 0xFFFFFF).cast("int32").cast("float32") * 2.0**-24
    return quadrant.cast("uint32"), (coarse.cast("float32") + fine) * (math.pi / 2 * 2.0**-28)


def _chosen(which: Value, first: int) -> Value:
    """Word `first + which` of 2 / pi, `which` from 0 to 4."""
    found = constant(_TWO_BY_PI[first], "uint32", which.lanes)
    for place in range(1, 5):
        word = constant(_TWO_BY_PI[first + place] if first + place < 8 else 0, "uint32", which.lanes)
        found = select(which < place, found, word)
    return found


def _number(bits: int, like: Value) -> Value:
    """The float32 of these bits."""
    return constant(bits, "uint32", like.lanes).reinterpret("float32", like.lanes)


def _float(value: float, like: Value) -> Value:
    return constant(value, "float32", like.lanes)
