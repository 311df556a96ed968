"""Observers: what range of a tensor's values the integers shall cover.

Each sees the tensor sample by sample and then answers a range for any bit-width: `minmax` covers everything,
`percentile` cuts the rarest values on both sides, `mse` takes the range with the least squared quantization error, and
`output` the range whose errors change the results of the weights that read the tensor least.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.numerics.affine import dequantize, quantize, tensor_quant
from tvm_mpq.schema import TensorQuant

SAMPLE = 4096
"""Values kept per sample: evenly spaced, so that a run is reproducible; with a Gram matrix whole positions."""

SHRINKS = np.linspace(1.0, 0.3, 36)
"""Shares of the full range that `mse` tries."""

ONE_STEP_SHRINKS = np.linspace(1.0, 0.04, 49)
"""The same at one bit: its only value beside zero lies in the middle of what is seen, far from a long tail's end."""


class Observer:
    """Collects one tensor's values.

    gram: float64[C, C] or None; what errors of the last axis' channels do to results: the sum over all weights w that
    read a position of w w^T. None: each channel's error counts alike.

    Raises
    ------
    DataError
        From `see`, when a value is NaN or infinite.
    """

    def __init__(self, name: str, gram: npt.NDArray[np.float64] | None = None) -> None:
        self._name, self._gram = name, gram
        self._low = np.inf
        self._high = -np.inf
        self._kept: list[npt.NDArray[np.float32]] = []

    def see(self, values: npt.NDArray[np.float32]) -> None:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"tensor {self._name!r} holds NaN or infinity on calibration data; check data and weights")
        self._low, self._high = min(self._low, low), max(self._high, high)
        rows = values.reshape(-1, 1 if self._gram is None else len(self._gram))
        count = min(max(1, SAMPLE // rows.shape[1]), len(rows))
        picked = np.linspace(0, len(rows) - 1, count).astype(np.int64)
        self._kept.append(rows[picked].astype(np.float32))

    def quant(self, bits: int, method: str) -> TensorQuant:
        """The TensorQuant of `bits` bits by the named method."""
        kept = np.concatenate(self._kept)
        if method == OUTPUT and self._gram is not None:
            return _output(self._low, self._high, kept, bits, self._gram)
        return METHODS[method](self._low, self._high, kept.reshape(-1), bits)


def _minmax(low: float, high: float, kept: npt.NDArray[np.float32], bits: int) -> TensorQuant:
    return tensor_quant(low, high, bits)


def _percentile(low: float, high: float, kept: npt.NDArray[np.float32], bits: int) -> TensorQuant:
    cut_low, cut_high = np.quantile(kept, [0.0001, 0.9999])
    return tensor_quant(max(low, float(cut_low)), min(high, float(cut_high)), bits)


def _mse(low: float, high: float, kept: npt.NDArray[np.float32], bits: int) -> TensorQuant:
    tried = [tensor_quant(low * s, high * s, bits) for s in (ONE_STEP_SHRINKS if bits == 1 else SHRINKS)]
    errors = [float(np.mean((dequantize(quantize(kept, q), q) - kept) ** 2, dtype=np.float64)) for q in tried]
    return tried[int(np.argmin(errors))]


def _output(
    low: float, high: float, kept: npt.NDArray[np.float32], bits: int, gram: npt.NDArray[np.float64]
) -> TensorQuant:
    """kept: float32[positions, C]. The mean error counts for nothing: the biases behind take it up."""
    tried = [tensor_quant(low * s, high * s, bits) for s in (ONE_STEP_SHRINKS if bits == 1 else SHRINKS)]
    errors = []
    for quant in tried:
        error = (dequantize(quantize(kept, quant), quant) - kept).astype(np.float64)
        error -= error.mean(axis=0)
        errors.append(float(((error.T @ error) * gram).sum()))
    return tried[int(np.argmin(errors))]


OUTPUT = "output"

METHODS: dict[str, Callable[[float, float, npt.NDArray[np.float32], int], TensorQuant]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    OUTPUT: _mse,  # of a tensor that no weights read
}


def check_method(method: str) -> str:
    """Raises InvalidValueError for an unknown observer."""
    if method not in METHODS:
        raise InvalidValueError(f"observer must be one of {sorted(METHODS)} (got {method!r})")
    return method
