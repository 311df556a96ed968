"""Rounding that keeps an operator's output: integers chosen by what their errors do to results, not weight by weight.

The error of one output channel is e H e^T, where e is the row of weight errors and H = E[x x^T] the second moments of
what the weights meet (centred, for a change of the mean goes into the bias). `round_to_outputs` minimises it in closed
form, column by column, each error spread over the columns that are still free (OBQ, Frantar and Alistarh 2022, arXiv
2208.11580; GPTQ, Frantar et al. 2023, arXiv 2210.17323), then by coordinate descent on the integers and on the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import quantize_weight, weight_range, weight_scale

Moments = npt.NDArray[np.float64]

DAMPING = 0.01
"""Share of the mean diagonal that is added to H: what calibration data say nothing of is rounded to nearest."""

FEW_POSITIONS = 20.0
"""Growth of that share with weights per position seen, for a covariance of few positions says too much: a classifier
sees one position an image. Measured on MobileNetV2, w4a8, 128 images: 506 of 650 right with it, 500 without."""

LONGEST = 4608
"""Weights of an output channel of one group (3 x 3 x 512) up to which covariances are kept: they take n^2 numbers."""

SWEEPS = 3
"""Of coordinate descent; later ones change next to nothing."""

_BLOCK = 64  # columns between two updates of all the others, so that most of the work is matrix products
_SHRINK = np.linspace(1.0, 0.3, 36)  # shares of max|w| tried as the clipping point


@dataclass(frozen=True)
class InputMoments:
    """Of what an operator's weights meet, over positions and samples; one entry a group.

    Attributes
    ----------
    mean : float64[G, n]
        Of the inputs that the integers will meet.
    covariance : float64[G, n, n]
        Of those inputs; no entries, float64[G, 0, 0], where n is above `LONGEST`.
    float_mean : float64[G, n]
        Of the float network's inputs at the same positions.
    cross : float64[G, n, n]
        E[(x_float - mean) (x - mean)^T]; no entries as above.
    positions : int
        How many were seen.
    """

    mean: Moments
    covariance: Moments
    float_mean: Moments
    cross: Moments
    positions: int

    @property
    def damping(self) -> float:
        """The share of the mean diagonal to be added to the covariance."""
        return float(DAMPING * (1 + FEW_POSITIONS * self.mean.shape[1] / self.positions))

    @classmethod
    def of(cls, met: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> InputMoments:
        """From the inputs met and those of the float network, float32[G, P, n] each; they are overwritten."""
        ones = np.full(met.shape[1], 1 / met.shape[1], np.float32)
        mean, float_mean = ((ones @ x).astype(np.float64) for x in (met, wanted))
        if met.shape[-1] > LONGEST:
            nothing = np.empty((len(met), 0, 0))
            return cls(mean, nothing, float_mean, nothing, met.shape[1])
        met -= mean[:, None].astype(np.float32)
        wanted -= float_mean[:, None].astype(np.float32)
        positions = met.shape[1]
        covariance, cross = (np.matmul(np.swapaxes(x, 1, 2), met) / np.float32(positions) for x in (met, wanted))
        return cls(mean, covariance.astype(np.float64), float_mean, cross.astype(np.float64), positions)


def round_operator(
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    moments: InputMoments,
    bits: int,
    least_scale: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Codes int8[G, O, n], scales float32[G, O] and bias float32[G, O] of one operator.

    weight float32[G, O, n]; bias float32[G, O]; least_scale: from a bias to the scales that it needs at least. Without
    covariances the codes are to nearest, and the bias is corrected all the same.
    """
    groups, rows, n = weight.shape
    known = moments.covariance.shape[-1] == n
    goal = towards_float_outputs(weight, moments, moments.damping) if known else weight
    whole = damped(moments.covariance, moments.damping) if known else moments.covariance
    least = least_scale(bias)
    while True:  # a bias that was corrected may need a larger scale than the one that it was corrected for
        if known:
            codes, scales = round_to_outputs(goal, whole, bits, least)
        else:
            flat, flat_scales = quantize_weight(weight.reshape(groups * rows, n), bits, least.reshape(-1))
            codes, scales = flat.reshape(weight.shape), flat_scales.reshape(groups, rows)
        found = corrected_bias(weight, codes, scales, bias, moments)
        needed = least_scale(found)
        if (scales >= needed).all():
            return codes, scales, found
        least = np.maximum(least, 2 * needed)


def round_to_outputs(
    weight: npt.NDArray[np.float32],
    covariance: Moments,
    bits: int,
    least_scale: npt.NDArray[np.float32] | None = None,
    *,
    sweeps: int = SWEEPS,
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
    codes = _column_by_column(weight, covariance, scale, bits)
    for _ in range(sweeps):
        scale = np.maximum(_best_scale(weight, codes, moments, scale), least)
        before = codes
        codes = _descend(weight, codes, moments, scale, bits)
        if np.array_equal(before, codes):
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


def damped(covariance: Moments, share: float = DAMPING) -> Moments:
    """With `share` of the mean of its diagonal added to the diagonal; 1 where the data say nothing at all."""
    n = covariance.shape[-1]
    mean = np.trace(covariance, axis1=1, axis2=2) / n
    added = np.where(mean > 0, share * mean, 1.0)
    return np.asarray(covariance + added[:, None, None] * np.eye(n))


def towards_float_outputs(
    weight: npt.NDArray[np.float32], moments: InputMoments, share: float = DAMPING
) -> npt.NDArray[np.float32]:
    """The real weights float32[G, O, n] that on the inputs met come nearest to the float network's results.

    Least squares of W x_float by V x, drawn towards W by the damping: V = (W C + d W) (H + d)^-1 with the covariance H
    and the cross moments C.
    """
    n = weight.shape[-1]
    whole = damped(moments.covariance, share)
    added = (whole - moments.covariance)[:, 0, 0] if n else np.zeros(len(weight))
    wide = weight.astype(np.float64)
    right = wide @ moments.cross + added[:, None, None] * wide
    solved = np.linalg.solve(whole, np.swapaxes(right, 1, 2))
    return np.swapaxes(solved, 1, 2).astype(np.float32)


def corrected_bias(
    weight: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    moments: InputMoments,
) -> npt.NDArray[np.float32]:
    """The bias float32[G, O] under which the mean result is the float network's

    Bias correction of Nagel et al. 2019 (arXiv 1906.04721), in closed form.
    """
    wanted = np.einsum("gon,gn->go", weight.astype(np.float64), moments.float_mean)
    given = np.einsum("gon,gn->go", codes * scales[..., None].astype(np.float64), moments.mean)
    return np.asarray((bias + wanted - given).astype(np.float32))


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
    plain = weight_scale(weight.reshape(groups * rows, n), bits).reshape(groups, rows)
    if bits == 1:
        return plain
    high = weight_range(bits)[1]
    top = np.abs(weight).max(axis=-1, initial=0.0)
    best, chosen = np.full(plain.shape, np.inf), plain.copy()
    for factor in _SHRINK:
        scale = np.maximum(top * np.float32(factor) / np.float32(high), np.finfo(np.float32).tiny)
        error = np.clip(np.rint(weight / scale[..., None]), -high, high) * scale[..., None] - weight
        loss = np.einsum("gon,gn->go", np.square(error), diagonal, optimize=True)
        better = (loss < best) & (top > 0)
        best[better], chosen[better] = loss[better], scale[better]
    return chosen


def _nearest(steps: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    if bits == 1:
        return np.where(steps < 0, np.float32(-1), np.float32(1))
    low, high = weight_range(bits)
    return np.asarray(np.clip(np.rint(steps), low, high))


def _column_by_column(
    weight: npt.NDArray[np.float32], covariance: Moments, scale: npt.NDArray[np.float32], bits: int
) -> npt.NDArray[np.float32]:
    """Codes as float32[G, O, n]; columns that matter most are rounded first, while all others can still give way."""
    n = weight.shape[-1]
    order = np.argsort(-np.diagonal(covariance, axis1=1, axis2=2).mean(axis=0), kind="stable")
    spread = _inverse_factor(covariance[:, order[:, None], order[None, :]])
    left = weight[..., order].copy()
    codes = np.empty_like(left)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        errors = np.empty_like(left[..., start:stop])
        for j in range(start, stop):
            column = left[..., j]
            codes[..., j] = _nearest(column / scale, bits)
            error = (column - codes[..., j] * scale) / spread[:, None, j, j]
            left[..., j + 1 : stop] -= error[..., None] * spread[:, None, j, j + 1 : stop]
            errors[..., j - start] = error
        left[..., stop:] -= errors @ spread[:, start:stop, stop:]
    back = np.empty_like(codes)
    back[..., order] = codes
    return back


def _inverse_factor(covariance: Moments) -> npt.NDArray[np.float32]:
    """float32[G, n, n]: the upper triangular U with U^T U = covariance^-1, whose rows say how an error is spread."""
    inverse = np.linalg.inv(covariance)
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
    usable = (below > 0) & (above > 0)
    found = np.divide(above, below, out=scale.astype(np.float64), where=usable).astype(np.float32)
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
    codes = codes.copy()
    slope = (weight - codes * scale[..., None]) @ moments  # minus half the gradient
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        old = codes[..., start:stop].copy()
        for j in range(start, stop):
            stiff = moments[:, None, j, j]
            best = _nearest(codes[..., j] + slope[..., j] / (stiff * scale), bits)
            step = (best - codes[..., j]) * scale
            codes[..., j] = best
            slope[..., start:stop] -= step[..., None] * moments[:, None, j, start:stop]
        change = (codes[..., start:stop] - old) * scale[..., None]
        slope[..., :start] -= change @ moments[:, start:stop, :start]
        slope[..., stop:] -= change @ moments[:, start:stop, stop:]
    return codes
