"""The activations that `schema.Conv2dWorkload` names: their float32 meaning and their 256 entry tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics import affine
from tvm_mpq.numerics.activation_names import clamp_bounds, is_clamp, parse
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.schema import TensorQuant

__all__ = ["apply", "clamp_bounds", "is_clamp", "parse", "requantize_table", "table"]

_Doubles = npt.NDArray[np.float64]

_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: _Doubles) -> _Doubles:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _hard_sigmoid(x: _Doubles) -> _Doubles:
    return np.asarray(np.clip(x + 3.0, 0.0, 6.0) / 6.0)


def _gelu(x: _Doubles) -> _Doubles:
    return np.asarray(0.5 * x * (1.0 + np.asarray(_erf(x * math.sqrt(0.5))).astype(np.float64)))


def _gelu_tanh(x: _Doubles) -> _Doubles:
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))))


_CURVES: dict[str, Callable[[_Doubles], _Doubles]] = {
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": lambda x: np.asarray(np.tanh(x)),
}


def apply(name: str, x: npt.NDArray[Any]) -> FloatArray:
    """The activation of each element, computed in float64 and rounded to float32 once.

    hard_sigmoid is clip(x + 3, 0, 6) / 6 and hard_swish is x times that.
    """
    base, numbers = parse(name)
    x = np.asarray(x, dtype=np.float32)
    if is_clamp(name):
        if base == "none":
            return x
        low, high = clamp_bounds(name)
        return np.asarray(np.fmin(np.fmax(x, np.float32(low)), np.float32(high)))
    wide = x.astype(np.float64)
    if base == "leaky_relu":
        return np.asarray(np.where(wide > 0, wide, wide * numbers[0]).astype(np.float32))
    with np.errstate(over="ignore"):
        return np.asarray(_CURVES[base](wide).astype(np.float32))


def table(name: str, pre: TensorQuant, out: TensorQuant) -> npt.NDArray[np.uint8]:
    """uint8[256]: entry i is the output integer of the activation for the input integer i."""
    return affine.quantize(apply(name, affine.dequantize(np.arange(256), pre)), out)


def requantize_table(src: TensorQuant, dst: TensorQuant) -> npt.NDArray[np.uint8]:
    """uint8[256]: entry i is the integer in `dst` nearest to the integer i in `src`."""
    return table("none", src, dst)
