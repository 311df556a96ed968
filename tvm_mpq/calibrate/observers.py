"""Observers: what range of a tensor's values the integers shall cover.

Each sees the tensor sample by sample and then answers a range for any bit-width: `minmax` covers everything,
`percentile` cuts the rarest values on both sides, `mse` takes the range with the least squared quantization error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.numerics.affine import dequantize, quantize, tensor_quant
from tvm_mpq.schema import TensorQuant

SAMPLE = 4096
"""Values kept per sample for percentile and mse: evenly spaced, so that a run is reproducible."""

SHRINKS = np.linspace(1.0, 0.3, 36)
"""Shares of the full range that `mse` tries."""

ONE_STEP_SHRINKS = np.linspace(1.0, 0.04, 49)
"""The same at one bit: its only value beside zero lies in the middle of what is seen, far from a long tail's end."""


class Observer:
    """Collects one tensor's values.

    Raises
    ------
    DataError
        From `see`, when a value is NaN or infinite.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._low = np.inf
        self._high = -np.inf
        self._kept: list[npt.NDArray[np.float32]] = []

    def see(self, values: npt.NDArray[np.float32]) -> None:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"tensor {self._name!r} holds NaN or infinity on calibration data; check data and weights")
        self._low, self._high = min(self._low, low), max(self._high, high)
        flat = values.reshape(-1)
        picked = np.linspace(0, flat.size - 1, min(SAMPLE, flat.size)).astype(np.int64)
        self._kept.append(flat[picked].astype(np.float32))

    def quant(self, bits: int, method: str) -> TensorQuant:
        """The TensorQuant of `bits` bits by the named method."""
        return METHODS[method](self._low, self._high, np.concatenate(self._kept), bits)


def _minmax(low: float, high: float, kept: npt.NDArray[np.float32], bits: int) -> TensorQuant:
    return tensor_quant(low, high, bits)


def _percentile(low: float, high: float, kept: npt.NDArray[np.float32], bits: int) -> TensorQuant:
    cut_low, cut_high = np.quantile(kept, [0.0001, 0.9999])
    return tensor_quant(max(low, float(cut_low)), min(high, float(cut_high)), bits)


def _mse(low: float, high: float, kept: npt.NDArray[np.float32], bits: int) -> TensorQuant:
    tried = [tensor_quant(low * s, high * s, bits) for s in (ONE_STEP_SHRINKS if bits == 1 else SHRINKS)]
    errors = [float(np.mean((dequantize(quantize(kept, q), q) - kept) ** 2, dtype=np.float64)) for q in tried]
    return tried[int(np.argmin(errors))]


METHODS: dict[str, Callable[[float, float, npt.NDArray[np.float32], int], TensorQuant]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
}


def check_method(method: str) -> str:
    """Raises InvalidValueError for an unknown observer."""
    if method not in METHODS:
        raise InvalidValueError(f"observer must be one of {sorted(METHODS)} (got {method!r})")
    return method
