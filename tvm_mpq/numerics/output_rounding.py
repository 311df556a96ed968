"""Integers of least output error: GPTQ's closed form, column by column, and coordinate descent after it.

The error of one output channel is e H e^T, where e is the row of weight errors and H the covariance of what the
weights meet. `round_to_outputs` rounds column by column, each error spread over the columns that are still free (OBQ,
Frantar and Alistarh 2022, arXiv 2208.11580; GPTQ, Frantar et al. 2023, arXiv 2210.17323); then each integer in turn,
and the scale, become the best ones while all others stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import quantize_weight, weight_range, weight_scale

Moments = npt.NDArray[np.float64]

SWEEPS = 3
"""Of coordinate descent, at most; later ones change next to nothing."""

_SETTLED = 0.01
"""Share of the integers that a sweep changed, below which none follows. Of MobileNetV2's at 6 bits the first changed
1.7 % in the median, the second 0.6 %, the third 0.3 %, which took 0.1 % off the error."""

_BLOCK = 32  # columns between two updates of all the others, so that most of the work is matrix products
_SHRINK = np.linspace(1.0, 0.3, 36, dtype=np.float32)  # shares of max|w| that may be the clipping point
_COARSE = 3  # of them every third is tried, and then those around the best one


def round_to_outputs(
    weight: npt.NDArray[np.float32],
    covariance: Moments,
    bits: int,
    least_scale: npt.NDArray[np.float32] | None = None,
    *,
    sweeps: int = SWEEPS,
    factor: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes and scales of least output error.

    Parameters
    ----------
    weight : float32[G, O, n]
        Rows of output channels, by group.
    covariance : float64[G, n, n]
        Positive definite: see `damped`.
    bits : int
        1..8.
    least_scale : float32[G, O], optional
        Scales are not below these.
    sweeps
        Of coordinate descent, at most.
    factor
        `inverse_factor` of it, where the same covariance serves several times.

    Returns
    -------
    codes : int8[G, O, n]
        In `weight_range(bits)`; at one bit -1 and +1 only.
    scales : float32[G, O]

    Raises
    ------
    InvalidValueError
        If the weight holds NaN or infinity, or shapes do not fit.
    """
    groups, rows, n = weight.shape
    if covariance.shape != (groups, n, n):
        raise InvalidValueError(f"covariance must have shape {(groups, n, n)} (got {covariance.shape})")
    least = np.zeros((groups, rows), np.float32) if least_scale is None else least_scale
    moments = covariance.astype(np.float32)
    scale = np.maximum(_start_scale(weight, np.diagonal(moments, axis1=1, axis2=2), bits), least)
    if factor is None:
        factor = inverse_factor(covariance, np.linalg.inv(covariance).astype(np.float64, copy=False))
    codes = _column_by_column(weight, factor, covariance, scale, bits)
    for _ in range(sweeps):
        scale = np.maximum(_best_scale(weight, codes, moments, scale), least)
        before = codes
        codes = _descend(weight, codes, moments, scale, bits)
        if np.count_nonzero(before != codes) < _SETTLED * codes.size:
            break
    return _no_worse(weight, covariance, codes.astype(np.int8), scale, bits, least)


def output_error(
    weight: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    covariance: Moments,
) -> npt.NDArray[np.float64]:
    """float64[G, O]: e H e^T of each output channel; shapes as in `round_to_outputs`."""
    error = weight.astype(np.float64) - codes * scales[..., None].astype(np.float64)
    return np.asarray(((error @ covariance) * error).sum(axis=-1))


def _no_worse(
    weight: npt.NDArray[np.float32],
    covariance: Moments,
    codes: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bits: int,
    least: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The codes, and for output channels where those to nearest are better (the columns went a bad way), these."""
    groups, rows, n = weight.shape
    plain, plain_scale = quantize_weight(weight.reshape(groups * rows, n), bits, least.reshape(-1))
    plain, plain_scale = plain.reshape(weight.shape), plain_scale.reshape(scale.shape)
    errors = [output_error(weight, *pair, covariance) for pair in ((codes, scale), (plain, plain_scale))]
    worse = errors[0] > errors[1]
    return np.where(worse[..., None], plain, codes), np.where(worse, plain_scale, scale)


def _start_scale(
    weight: npt.NDArray[np.float32], diagonal: npt.NDArray[np.float32], bits: int
) -> npt.NDArray[np.float32]:
    """float32[G, O]: of the clipping points the one with the least error, each column by how much it matters."""
    groups, rows, n = weight.shape
    if bits == 1:
        return weight_scale(weight.reshape(groups * rows, n), bits).reshape(groups, rows)
    high = weight_range(bits)[1]
    top = np.abs(weight).max(axis=-1, initial=0.0)
    # For channels of zeros, whose scale is the same at all bits; at 8 it is not searched for.
    plain = weight_scale(weight.reshape(groups * rows, n), 8).reshape(groups, rows)
    tiny = np.finfo(np.float32).tiny
    step_per_share = np.maximum(top / np.float32(high), tiny)

    def loss(share: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        steps = weight / (step_per_share * share)[..., None]
        error = np.rint(steps)
        np.clip(error, -high, high, out=error)
        error -= steps
        np.square(error, out=error)
        return np.asarray((error @ diagonal[..., None])[..., 0] * np.square(share))

    best, at = np.full(plain.shape, np.inf, np.float32), np.zeros(plain.shape, np.int64)
    for i in range(0, len(_SHRINK), _COARSE):
        here = loss(np.broadcast_to(_SHRINK[i], plain.shape))
        better = here < best
        best[better], at[better] = here[better], i
    middle = at.copy()
    for aside in (a for a in range(1 - _COARSE, _COARSE) if a):
        near = np.clip(middle + aside, 0, len(_SHRINK) - 1)
        here = loss(_SHRINK[near])
        better = here < best
        best[better], at[better] = here[better], near[better]
    return np.where(top > 0, np.maximum(step_per_share * _SHRINK[at], tiny), plain)


def _nearest(steps: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    if bits == 1:
        return np.where(steps < 0, np.float32(-1), np.float32(1))
    low, high = weight_range(bits)
    codes = np.rint(steps)
    np.minimum(np.maximum(codes, low, out=codes), high, out=codes)
    return codes


def _column_by_column(
    weight: npt.NDArray[np.float32],
    spread: npt.NDArray[np.float32],
    covariance: Moments,
    scale: npt.NDArray[np.float32],
    bits: int,
) -> npt.NDArray[np.float32]:
    """Codes as float32[G, O, n]; columns that matter most are rounded first, while all others can still give way."""
    n = weight.shape[-1]
    order = _column_order(covariance)
    left = _columns(weight[..., order])
    codes = np.empty_like(left)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        errors = np.empty_like(left[:, start:stop])
        for j in range(start, stop):
            column = left[:, j]
            codes[:, j] = _nearest(column / scale, bits)
            error = (column - codes[:, j] * scale) / spread[:, j, j, None]
            left[:, j + 1 : stop] -= spread[:, j, j + 1 : stop, None] * error[:, None]
            errors[:, j - start] = error
        left[:, stop:] -= np.swapaxes(spread[:, start:stop, stop:], 1, 2) @ errors
    back = np.empty_like(codes)
    back[:, order] = codes
    return np.swapaxes(back, 1, 2)


def _columns(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A copy of float32[G, O, n] as float32[G, n, O]: one column of all output channels lies together."""
    return np.swapaxes(rows, 1, 2).copy(order="C")


def _column_order(covariance: Moments) -> npt.NDArray[np.int64]:
    """int64[n]: columns by how much their inputs vary, most first."""
    return np.argsort(-np.diagonal(covariance, axis1=1, axis2=2).mean(axis=0), kind="stable")


def inverse_factor(covariance: Moments, inverse: Moments) -> npt.NDArray[np.float32]:
    """float32[G, n, n]: the upper triangular U with U^T U = covariance^-1, whose rows say how an error is spread.

    inverse: of the covariance. Rows and columns of U stand in the order in which columns are rounded.
    """
    order = _column_order(covariance)
    inverse = inverse[:, order[:, None], order[None, :]]
    inverse = (inverse + np.swapaxes(inverse, 1, 2)) / 2
    return np.swapaxes(np.linalg.cholesky(inverse), 1, 2).astype(np.float32)


def _best_scale(
    weight: npt.NDArray[np.float32],
    codes: npt.NDArray[np.float32],
    moments: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The scale of least error for these codes: w H q^T / q H q^T; the old one where that is nothing."""
    image = codes @ moments
    above = (image * weight).sum(axis=-1, dtype=np.float64)
    below = (image * codes).sum(axis=-1, dtype=np.float64)
    found = np.divide(above, below, out=scale.astype(np.float64), where=below > 0).astype(np.float32)
    return np.where(found > np.finfo(np.float32).tiny, found, scale)


def _descend(
    weight: npt.NDArray[np.float32],
    codes: npt.NDArray[np.float32],
    moments: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    bits: int,
) -> npt.NDArray[np.float32]:
    """One pass over the columns: each integer becomes the best one while all others stay."""
    n = weight.shape[-1]
    found = _columns(codes)
    slope = moments @ (_columns(weight) - found * scale[:, None])  # minus half the gradient
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        old = found[:, start:stop].copy()
        for j in range(start, stop):
            best = _nearest(found[:, j] + slope[:, j] / (moments[:, j, j, None] * scale), bits)
            step = (best - found[:, j]) * scale
            found[:, j] = best
            # Columns before j are not looked at again in this pass, those beyond the block after it.
            slope[:, j + 1 : stop] -= moments[:, j, j + 1 : stop, None] * step[:, None]
        change = (found[:, start:stop] - old) * scale[:, None]
        slope[:, stop:] -= moments[:, stop:, start:stop] @ change
    return np.swapaxes(found, 1, 2)
