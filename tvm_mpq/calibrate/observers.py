"""Observers: what range of a tensor's values the integers shall cover.

Each sees the tensor sample by sample and then answers a range for any bit-width: `minmax` covers everything,
`percentile` cuts the rarest values on both sides, `mse` takes the range with the least squared quantization error, and
`output` the range whose errors change the results of the weights that read the tensor least. `mse` moves each end by
itself, since tails differ, and counts errors behind the activation that reads the values: hard-swish makes 0 of
whatever lies below -3, so steps for it are wasted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.numerics.affine import dequantize, quantize, tensor_quant
from tvm_mpq.schema import TensorQuant

SAMPLE = 4096
"""Values kept per sample for a Gram matrix: whole positions, evenly spaced, so that a run is reproducible."""

SHRINKS = np.linspace(1.0, 0.3, 36)
"""Shares of the full range that are tried."""

END_SHRINKS = np.linspace(1.0, 0.0, 26)
"""Shares of one end that `mse` tries then, the other end as it was best."""

_ROUNDS = 2
"""How often each end is moved."""

BINS = 4096
"""More values than that are told by their numbers in so many equal parts of the range, and the means of these. None is
left out: a single channel of a single token may hold what a network lives by."""

_PARTS = 16
"""Samples that are told apart until they are put together."""

Counted = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]
"""Values, and how often each was seen."""

ONE_STEP_SHRINKS = np.linspace(1.0, 0.04, 49)
"""The same at one bit: its only value beside zero lies in the middle of what is seen, far from a long tail's end."""


AppliedTo = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class Observer:
    """Collects one tensor's values.

    read: what is made of the values before errors count, elementwise; None: nothing.
    gram: float64[C, C] or None; what errors of the last axis' channels do to results: the sum over all weights w that
    read a position of w w^T. None: each channel's error counts alike.

    Raises
    ------
    DataError
        From `see`, when a value is NaN or infinite.
    """

    def __init__(self, name: str, gram: npt.NDArray[np.float64] | None = None, read: AppliedTo | None = None) -> None:
        self._name, self._gram, self._read = name, gram, read
        self._low = np.inf
        self._high = -np.inf
        self._counted: list[Counted] = []
        self._rows: list[npt.NDArray[np.float32]] = []

    def see(self, values: npt.NDArray[np.float32]) -> None:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"tensor {self._name!r} holds NaN or infinity on calibration data; check data and weights")
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._counted.append(_binned(values.reshape(-1), np.ones(values.size)))
        if len(self._counted) == _PARTS:
            self._counted = [self._merged()]
        if self._gram is not None:
            rows = values.reshape(-1, len(self._gram))
            count = min(max(1, SAMPLE // rows.shape[1]), len(rows))
            picked = np.linspace(0, len(rows) - 1, count).astype(np.int64)
            self._rows.append(rows[picked].astype(np.float32))

    def quant(self, bits: int, method: str) -> TensorQuant:
        """The TensorQuant of `bits` bits by the named method."""
        if method == OUTPUT and self._gram is not None:
            return _output(self._low, self._high, np.concatenate(self._rows), bits, self._gram)
        return METHODS[method](self._low, self._high, self._merged(), bits, self._read)

    def _merged(self) -> Counted:
        values, counts = (np.concatenate(parts) for parts in zip(*self._counted, strict=True))
        return _binned(values, counts)


def _minmax(low: float, high: float, seen: Counted, bits: int, read: AppliedTo | None) -> TensorQuant:
    return tensor_quant(low, high, bits)


def _percentile(low: float, high: float, seen: Counted, bits: int, read: AppliedTo | None) -> TensorQuant:
    order = np.argsort(seen[0])
    values, counts = seen[0][order], seen[1][order]
    ranks = np.cumsum(counts) - counts  # of the first one of each
    last = counts.sum() - 1
    cut_low, cut_high = np.interp([0.0001 * last, 0.9999 * last], ranks, values)
    return tensor_quant(max(low, float(cut_low)), min(high, float(cut_high)), bits)


def _mse(low: float, high: float, seen: Counted, bits: int, read: AppliedTo | None) -> TensorQuant:
    low, high = min(low, 0.0), max(high, 0.0)
    values, counts = seen
    wanted = read(values) if read else values

    def tried(lower: float, upper: float) -> tuple[float, float, float]:
        """The error, and the shares of the range's ends that have it."""
        quant = tensor_quant(low * lower, high * upper, bits)
        levels = dequantize(np.arange(2**bits), quant)
        found = (read(levels) if read else levels)[quantize(values, quant)]
        return float(np.dot(counts, (found - wanted).astype(np.float64) ** 2)), lower, upper

    best = min((tried(s, s) for s in (ONE_STEP_SHRINKS if bits == 1 else SHRINKS)), key=_error)
    for _ in range(_ROUNDS):
        best = min((best, *(tried(s, best[2]) for s in END_SHRINKS)), key=_error)
        best = min((best, *(tried(best[1], s) for s in END_SHRINKS)), key=_error)
    return tensor_quant(low * best[1], high * best[2], bits)


def _error(tried: tuple[float, float, float]) -> float:
    return tried[0]


def _binned(values: npt.NDArray[np.float32], counts: npt.NDArray[np.float64]) -> Counted:
    """The same with at most BINS different values."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([low], np.float32), counts.sum(keepdims=True)
    if values.size <= BINS:
        return values.astype(np.float32), counts
    places = np.minimum((values.astype(np.float64) - low) * (BINS / (high - low)), BINS - 1).astype(np.int64)
    numbers = np.bincount(places, weights=counts, minlength=BINS)
    sums = np.bincount(places, weights=counts * values, minlength=BINS)
    found = numbers > 0
    return (sums[found] / numbers[found]).astype(np.float32), np.asarray(numbers[found], np.float64)


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

METHODS: dict[str, Callable[[float, float, Counted, int, AppliedTo | None], TensorQuant]] = {
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
