"""What quantizing costs, told from few images: statistics that pair each image's two outputs, fp32's and the plan's.

Comparing who is right moves by whole images: of n images with f changed answers, the drop is known to sqrt(f) / n, a
point or more for a few hundred. Two things are therefore not counted but expected:

    regret     p[fp32's class] - p[the plan's class], p = softmax of fp32's logits / temperature: the accuracy that an
               image is expected to lose by its changed class, should those probabilities be true. Changed classes are
               nearly always close calls for fp32 itself, and lose little.
    crossing   quantization moves logits by some noise, seen on every image, whether its class changes or not. An
               image's noise is put onto the fp32 logits of images whose calls are about as close, class by class in the
               order of fp32's ranking, and the regrets of all such pairs are averaged: a two-sample U-statistic
               (Hoeffding, Ann. Math. Stat. 19, 1948; its variance is that of both samples' means, Lehmann 1951). Only
               among images of like margins: networks put other noise onto what they are sure of.

Most networks are surer than they are right, some are less sure (Guo et al., arXiv 1706.04599): where labels are known
the temperature is fitted to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError

Doubles = npt.NDArray[np.float64]

RANKS = 5
"""Classes of an image that may win, the likeliest by fp32: noise that lifts a later one above all these is no noise."""

ALIKE = 100
"""Images of nearest margin, of whose noise each image meets all."""

TEMPERATURES = tuple(1.02**step for step in range(-70, 71))
"""From a quarter to four: a few images of which all are right would ask for none at all."""

CONFIDENCE = 0.9
"""One-sided: the share of cases in which the truth lies below `Interval.high`, and as many above `Interval.low`."""

MOST_IMAGES = 50_000
"""As many as ImageNet's validation set has: users are not asked for more."""

_CHUNK = 64  # images that meet noise at once
_MOST = 20.0  # logarithm of the widest factor that a bound stands away


@dataclass(frozen=True)
class Interval:
    """Accuracy points lost: an estimate, one-sided bounds on either side, and how many images they stand on."""

    estimate: float
    low: float
    high: float
    images: int

    @property
    def broken(self) -> bool:
        """Whether outputs held NaN or infinity."""
        return not math.isfinite(self.estimate)


def exact(points: float, images: int = 0) -> Interval:
    """A loss that is known, such as that of the fp32 network itself."""
    return Interval(points, points, points, images)


def softmax(logits: Doubles) -> Doubles:
    """float64[N, C] -> float64[N, C], rows that add up to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def temperature(logits: Doubles, labels: npt.NDArray[np.int64]) -> float:
    """What logits are divided by so that the network is as sure as it is right: the likeliest of `TEMPERATURES`.

    Above 1 where it is surer than right (Guo et al., arXiv 1706.04599).
    """
    rows = np.arange(len(logits))
    logits = logits - logits.max(axis=1, keepdims=True)

    def surprise(t: float) -> float:
        return float((np.log(np.exp(logits / t).sum(axis=1)) - logits[rows, labels] / t).sum())

    return min(TEMPERATURES, key=lambda t: (surprise(t), abs(t - 1)))


def crossed(before: Doubles, after: Doubles, z: float, temperature: float = 1.0) -> Interval:
    """Expected accuracy points lost, when each image may meet the noise of each image whose call is about as close.

    Parameters
    ----------
    before, after
        float64[N, classes], logits of fp32 and of the plan.
    z
        How many standard errors the bounds stand away: `student(N, level)`.
    temperature
        What fp32's logits are divided by before they are probabilities.

    Returns
    -------
    Interval
        mean * exp(+- z * error / mean), error = sqrt((var_i(mean_j h) + var_j(mean_i h)) / N), h[i, j] the regret of
        image i under the noise of image j, one of the `ALIKE` that are nearest in the order of margins. The upper bound
        is at least what closer calls than any of these may cost, `unseen`.
    """
    images, near = len(before), min(ALIKE, len(before))
    classes = np.argsort(-before, axis=1, kind="stable")[:, :RANKS]
    logits, moved, p = (np.take_along_axis(x, classes, 1) for x in (before, after, softmax(before / temperature)))
    order = np.argsort(logits[:, 0] - logits[:, min(1, logits.shape[1] - 1)], kind="stable")
    logits, noise, p = logits[order], (moved - logits)[order], p[order]
    first = np.clip(np.arange(images) - near // 2, 0, images - near)
    by_image, by_noise = np.empty(images), np.zeros(images)
    for start in range(0, images, _CHUNK):
        rows = slice(start, start + _CHUNK)
        met = first[rows, None] + np.arange(near)
        winner = (logits[rows, None] + noise[met]).argmax(axis=2)
        regret = p[rows, :1] - np.take_along_axis(p[rows], winner, 1)
        by_image[rows] = regret.mean(axis=1)
        by_noise += np.bincount(met.ravel(), regret.ravel(), images) / near
    error = math.sqrt((_variance(by_image) + _variance(by_noise)) / images)
    found = _around(float(by_image.mean()), error, z, images)
    if logits.shape[1] < 2:
        return found
    reach = max(0.0, float((noise[:, 1:] - noise[:, :1]).max()))
    most = min(float((p[:, 0] - p[:, 1]).min()), math.tanh(reach / (2 * temperature)))
    return replace(found, high=max(found.high, unseen(most, images, 1 - NormalDist().cdf(z))))


def unseen(most: float, images: int, error: float) -> float:
    """Accuracy points that images may cost whose calls are closer than any of those seen, of which few show nothing.

    Of new images at most 1 - error^(1/images) are so close, but for a chance of `error`. most: what each of them may
    lose: less than the closest one seen, and than a call that the greatest noise seen just turns, tanh(noise / 2T).

    >>> round(unseen(0.2, 25, 0.01), 2), round(unseen(0.2, 300, 0.01), 2), unseen(0.0, 25, 0.01)
    (3.36, 0.3, 0.0)
    """
    return float(100 * most * (1 - error ** (1 / images)))


def mean_of(losses: Doubles, z: float) -> Interval:
    """The mean of losses that are not negative, one an image, in points: 100 times as much.

    One image alone does not tell how much others scatter: its own loss is taken for that.
    """
    error = math.sqrt(_variance(losses) / len(losses)) if len(losses) > 1 else float(losses.mean())
    return _around(float(losses.mean()), error, z, len(losses))


def changes(better: int, worse: int, images: int, level: float = CONFIDENCE) -> Interval:
    """Accuracy points lost on images with labels: paired counts of those that became right, and wrong.

    The interval of Agresti and Min (Statistics in Medicine 24, 2005): half an image more in each of the four cells, so
    that no change at all is no certainty either.
    """
    if images < 1:
        raise InvalidValueError(f"images must be 1 or more (got {images})")
    total = images + 2
    share = (worse - better) / total
    spread = math.sqrt(((better + worse + 1) / total - share**2) / total)
    z = NormalDist().inv_cdf(level)
    return Interval(100 * (worse - better) / images, 100 * (share - z * spread), 100 * (share + z * spread), images)


def student(images: int, level: float = CONFIDENCE) -> float:
    """Student's quantile for `images` - 1 degrees of freedom, one-sided (Abramowitz and Stegun, 26.7.5).

    Within 4 % for two images, 0.1 % from six on, at levels up to 0.9.

    >>> round(student(31), 3), round(student(10**6), 3)
    (1.31, 1.282)
    """
    z, n = NormalDist().inv_cdf(level), max(1, images - 1)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / n**power for power, term in enumerate(terms, 1)))


def images_needed(found: Interval, allowed: float) -> int | None:
    """How many images would put `high` within what is allowed, were the estimate right; None when no number would, or
    more than `MOST_IMAGES`: so near to what is allowed, the estimate's own error decides."""
    room, width = allowed - found.estimate, found.high - found.estimate
    if found.broken or room <= 0:
        return None
    needed = max(found.images, math.ceil(found.images * (width / room) ** 2))
    return needed if needed <= MOST_IMAGES else None


def _variance(x: Doubles) -> float:
    return float(x.var(ddof=1)) if len(x) > 1 else 0.0


def _around(mean: float, error: float, z: float, images: int) -> Interval:
    """Bounds on the logarithm, whose error is error / mean.

    A few images carry most of the loss: such a mean is more often far too small than far too large.
    """
    factor = math.exp(min(z * error / mean, _MOST)) if mean > 0 else 1.0
    return Interval(100 * mean, 100 * mean / factor, 100 * mean * factor, images)
