"""Rounding that keeps an operator's results: weights, scales and bias chosen by what its weights meet.

What they meet under quantization is not what the float network shows them: `towards_float_outputs` first finds the
real weights that make up for it, `round_to_outputs` their integers, and `corrected_bias` gives the results the mean
that they had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.affine import quantize_weight
from tvm_mpq.numerics.output_rounding import SWEEPS, Moments, inverse_factor, round_to_outputs

DAMPING = 0.1
"""Share of the mean diagonal that is added to H: what calibration data say nothing of is rounded to nearest. Mean KL to
fp32 on test images with 0.01, 0.1 and 0.4: MobileNetV2 at w4a8 0.164, 0.114 and 0.129; ResNet-20 at w4a8 0.018, 0.016
and 0.023, at w2a4 with ends at w8a8 0.37, 0.39 and 0.40."""

FEW_POSITIONS = 20.0
"""Growth of that share with weights per position seen, for a covariance of few positions says too much: a classifier
sees one position an image. With many positions it is next to nothing."""

LONGEST = 4608
"""Weights of an output channel of one group (3 x 3 x 512) up to which covariances are kept: they take n^2 numbers."""


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
        """From the inputs met and those of the float network, float32[G, P, n] each; `met` is overwritten."""
        positions = met.shape[1]
        ones = np.full(positions, 1 / positions, np.float32)
        mean, float_mean = ((ones @ x).astype(np.float64) for x in (met, wanted))
        if met.shape[-1] > LONGEST:
            nothing = np.empty((len(met), 0, 0))
            return cls(mean, nothing, float_mean, nothing, positions)
        # E[x_float - mean] of the cross moments vanishes against centered inputs, whose sum is 0.
        met -= mean[:, None].astype(np.float32)
        covariance, cross = (np.matmul(np.swapaxes(x, 1, 2), met) / np.float32(positions) for x in (met, wanted))
        return cls(mean, covariance.astype(np.float64), float_mean, cross.astype(np.float64), positions)


class OperatorRounding:
    """One operator on inputs of known moments, to be rounded to any bits; what these share is computed once.

    weight float32[G, O, n]; bias float32[G, O]. Without covariances codes are to nearest, and biases are corrected all
    the same.
    """

    def __init__(self, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], moments: InputMoments) -> None:
        self._weight, self._bias, self._moments = weight, bias, moments
        self._goal, self._whole, self._factor = weight, moments.covariance, np.empty((0, 0, 0), np.float32)
        self._is_known = moments.covariance.shape[-1] == weight.shape[-1]
        if self._is_known:
            self._whole = damped(moments.covariance, moments.damping)
            inverse = np.linalg.inv(self._whole).astype(np.float64, copy=False)
            self._goal = towards_float_outputs(weight, moments, self._whole, inverse)
            self._factor = inverse_factor(self._whole, inverse)

    def to(
        self,
        bits: int,
        least_scale: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
        sweeps: int = SWEEPS,
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Codes int8[G, O, n], scales float32[G, O] and bias float32[G, O].

        least_scale: from a bias to the scales that it needs at least. sweeps: of coordinate descent.
        """
        least = least_scale(self._bias)
        while True:  # a bias that was corrected may need a larger scale than the one that it was corrected for
            codes, scales = self._integers(bits, least, sweeps)
            bias = corrected_bias(self._weight, codes, scales, self._bias, self._moments)
            needed = least_scale(bias)
            if (scales >= needed).all():
                return codes, scales, bias
            least = np.maximum(least, 2 * needed)

    def _integers(
        self, bits: int, least: npt.NDArray[np.float32], sweeps: int
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        if self._is_known:
            return round_to_outputs(self._goal, self._whole, bits, least, sweeps=sweeps, factor=self._factor)
        groups, rows, n = self._weight.shape
        codes, scales = quantize_weight(self._weight.reshape(groups * rows, n), bits, least.reshape(-1))
        return codes.reshape(self._weight.shape), scales.reshape(groups, rows)


def damped(covariance: Moments, share: float = DAMPING) -> Moments:
    """With `share` of the mean of its diagonal added to the diagonal; 1 where the data say nothing at all."""
    n = covariance.shape[-1]
    mean = np.trace(covariance, axis1=1, axis2=2) / n
    added = np.where(mean > 0, share * mean, 1.0)
    return np.asarray(covariance + added[:, None, None] * np.eye(n))


def towards_float_outputs(
    weight: npt.NDArray[np.float32], moments: InputMoments, whole: Moments, inverse: Moments
) -> npt.NDArray[np.float32]:
    """The real weights float32[G, O, n] that on the inputs met come nearest to the float network's results.

    Least squares of W x_float by V x, drawn towards W by the damping: V = (W C + d W) (H + d)^-1 with the covariance H
    and the cross moments C; whole: H + d, as `damped` gives it, inverse: (H + d)^-1.
    """
    n = weight.shape[-1]
    added = (whole - moments.covariance)[:, 0, 0] if n else np.zeros(len(weight))
    wide = weight.astype(np.float64)
    right = wide @ moments.cross + added[:, None, None] * wide
    return np.asarray((right @ inverse).astype(np.float32))


def corrected_bias(
    weight: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    moments: InputMoments,
) -> npt.NDArray[np.float32]:
    """The bias float32[G, O] under which the mean result is the float network's.

    Bias correction of Nagel et al. 2019 (arXiv 1906.04721), in closed form.
    """
    wanted = np.einsum("gon,gn->go", weight.astype(np.float64), moments.float_mean)
    given = np.einsum("gon,gn->go", codes * scales[..., None].astype(np.float64), moments.mean)
    return np.asarray((bias + wanted - given).astype(np.float32))
