"""Attention on floats, and on bytes with integer products around a softmax in float32.

The integers: scores are sums of (q - zero_q) * (k - zero_k). The weight of a key is the byte that
255 * 2^-u rounds to, u = (largest score of the row - score) * factor in float32, so that the heaviest key of each query
weighs 255. A result is sum(weight * (v - zero_v)) * (scale / sum(weight)).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics import constants
from tvm_mpq.numerics.arrays import Array, FloatArray
from tvm_mpq.numerics.constants import Finish
from tvm_mpq.numerics.fma import fma32
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.requantize import multiplier, scale_accumulator
from tvm_mpq.schema import AttentionWorkload

POWER = (255.0, -176.74667358398438, 61.261451721191406, -14.256138801574707, 2.4436275959014893)
"""255 * 2^-r for |r| <= 1/2, lowest degree first: fitted to the least relative error (3e-6), exact at 0."""

FARTHEST = 30.0
"""Halvings behind which a weight is 0 anyway: 255 * 2^-9 rounds to 0."""


def longest_sum(activation_bits: int) -> int:
    """How many features or keys attention may add up so that no sum leaves int32, nor a difference of two scores.

    Two keys differ by as many steps as one key can lie off its zero point.

    >>> longest_sum(8)
    33025
    """
    return int((2**31 - 1) // (2**activation_bits - 1) ** 2)


def view(x: Array, place: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """q, k or v as [batch, head, row, feature] of the dense tensor that it lies in; place: see `AttentionWorkload`."""
    _, offset, *strides = place
    index = np.asarray(offset)
    for axis, (stride, count) in enumerate(zip(strides, shape, strict=True)):
        index = index + (stride * np.arange(count)).reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return np.asarray(x.reshape(-1)[index])


def operand_views(w: AttentionWorkload, inputs: list[Array]) -> tuple[Array, Array, Array]:
    """q [B, H, queries, features], k [B, H, keys, features] and v [B, H, keys, value features]."""
    shapes = ((w.queries, w.features), (w.keys, w.features), (w.keys, w.value_features))
    places = zip((w.q, w.k, w.v), shapes, strict=True)
    q, k, v = (view(inputs[place[0]], place, (w.batch, w.heads, *shape)) for place, shape in places)
    return q, k, v


def merged(y: Array) -> Array:
    """[batch, head, query, feature] as attention leaves it: [batch, query, head * feature]."""
    batch, heads, queries, features = y.shape
    return np.ascontiguousarray(y.transpose(0, 2, 1, 3)).reshape(batch, queries, heads * features)


def evaluate_float(w: AttentionWorkload, inputs: list[Array]) -> FloatArray:
    """float32[batch, queries, heads * value features], computed in float64."""
    q, k, v = (x.astype(np.float64) for x in operand_views(w, inputs))
    scores = w.scale * (q @ k.swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return merged(weights / weights.sum(-1, keepdims=True) @ v).astype(np.float32)


def score_factor(w: AttentionWorkload, operands: Operands) -> FloatArray:
    """float32[]: halvings of a weight for each step that a score lies below the largest."""
    q, k = (constants.integer_input(operands, place[0]) for place in (w.q, w.k))
    return multiplier(q.scale, k.scale, w.scale * math.log2(math.e))


def value_factor(w: AttentionWorkload, operands: Operands, end: Finish) -> FloatArray:
    """float32[]: a step of v in steps of the output."""
    return multiplier(constants.integer_input(operands, w.v[0]).scale, output=end.scale)


def weight_bytes(scores: npt.NDArray[np.int32], factor: FloatArray) -> npt.NDArray[np.int32]:
    """int32[..., keys] in 0..255: what each key weighs, by scores int32[..., keys]."""
    below = (scores.max(-1, keepdims=True) - scores).astype(np.float32)
    with np.errstate(over="ignore"):
        u = np.minimum(below * factor, np.float32(FARTHEST))
    whole = np.rint(u)
    r = u - whole
    power = np.full_like(r, POWER[-1])
    for c in reversed(POWER[:-1]):
        power = fma32(power, r, np.asarray(c, np.float32))
    return np.asarray(np.rint(np.ldexp(power, -whole.astype(np.int32))).astype(np.int32))


def integer_result(w: AttentionWorkload, operands: Operands, inputs: list[Array], end: Finish) -> FloatArray:
    """float32[batch, queries, heads * value features] in steps of the output, not rounded yet; inputs uint8."""
    zeros = (constants.integer_input(operands, place[0]).zero_point for place in (w.q, w.k, w.v))
    views = zip(operand_views(w, inputs), zeros, strict=True)
    q, k, v = (x.astype(np.int32) - zero for x, zero in views)
    weights = weight_bytes(np.einsum("bhid,bhjd->bhij", q, k), score_factor(w, operands))
    sums = np.einsum("bhij,bhjd->bhid", weights, v)
    share = value_factor(w, operands, end) / weights.sum(-1, keepdims=True).astype(np.float32)
    return merged(scale_accumulator(sums, share))
