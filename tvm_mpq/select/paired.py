"""What quantizing costs, told from few images: statistics that pair each image's two outputs, fp32's and the plan's.

Comparing who is right moves by whole images: of n images with f changed answers, the drop is known to sqrt(f) / n, a
point or more for a few hundred. Two things are therefore not counted but expected:

    regret     p[fp32's class] - p[the plan's class], p = softmax of fp32's logits: the accuracy that an image is
               expected to lose by its changed class, should fp32's probabilities be true. Changed classes are nearly
               always close calls for fp32 itself, and lose little.
    crossing   quantization moves logits by some noise, seen on every image, whether its class changes or not. Every
               image's noise is put onto every image's fp32 logits, class by class in the order of fp32's ranking, and
               the regrets of all pairs are averaged: a two-sample U-statistic (Hoeffding, Ann. Math. Stat. 19, 1948;
               its variance is that of both samples' means, Lehmann 1951), for which n images are n * n.

Images whose logits are ranked need not be those whose noise is seen: see `tvm_mpq.calibrate.judge`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError

Doubles = npt.NDArray[np.float64]

RANKS = 5
"""Classes of an image that may win, the likeliest by fp32: noise that lifts a later one above all these is no noise."""

TEMPERATURES = tuple(1 - 0.05 * step for step in range(15))
"""1 first, so that it is taken when others are as likely."""

CONFIDENCE = 0.9
"""One-sided: the share of cases in which the truth lies below `Interval.high`, and as many above `Interval.low`."""

_CHUNK = 64  # images whose noise is crossed at once
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
    """What logits are to be divided by where the network is right more often than it says: 1 or less.

    The likeliest of `TEMPERATURES` (Guo et al., arXiv 1706.04599). Networks that say too much are left as they are:
    that makes regrets larger, and on images that they were trained on it would not show.
    """
    rows = np.arange(len(logits))
    likelihood = [float(np.log(np.maximum(softmax(logits / t)[rows, labels], 1e-30)).sum()) for t in TEMPERATURES]
    return TEMPERATURES[int(np.argmax(likelihood))]


def regrets(reference: Doubles, changed: Doubles, temperature: float = 1.0) -> Doubles:
    """Expected accuracy lost on each image: p[arg max reference] - p[arg max changed], p = softmax(reference / T).

    >>> regrets(np.log([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.0, 1.0], [1.0, 0.0]])).round(3).tolist()
    [0.2, 0.0]
    """
    p = softmax(reference / temperature)
    rows = np.arange(len(p))
    return np.asarray(p[rows, reference.argmax(axis=1)] - p[rows, changed.argmax(axis=1)])


@dataclass(frozen=True)
class Ranked:
    """Images by fp32's ranking of their classes. logits, probabilities: float64[images, ranks], best first."""

    logits: Doubles
    probabilities: Doubles

    @classmethod
    def of(cls, logits: Doubles, temperature: float = 1.0) -> Ranked:
        """logits: float64[images, classes]."""
        order = ranking(logits)
        p = softmax(logits / temperature)
        return cls(np.take_along_axis(logits, order, 1), np.take_along_axis(p, order, 1))


def ranking(logits: Doubles) -> npt.NDArray[np.intp]:
    """int[images, ranks]: the likeliest classes of each image, best first; at most `RANKS`."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :RANKS]


def noise(reference: Doubles, changed: Doubles) -> Doubles:
    """float64[images, ranks]: what quantization adds to each image's likeliest classes, best first."""
    return np.asarray(np.take_along_axis(changed - reference, ranking(reference), 1))


def crossed(images: Ranked, noises: Doubles, z: float) -> Interval:
    """Expected accuracy points lost, when each image may meet each noise.

    Parameters
    ----------
    images
        M images as fp32 sees them.
    noises
        float64[N, ranks], of N images that both networks have seen.
    z
        How many standard errors the bounds stand away: `student(N, level)`.

    Returns
    -------
    Interval
        mean * exp(+- z * error / mean), error = sqrt(var_i(mean_j h) / M + var_j(mean_i h) / N), h[i, j] the regret of
        image i under noise j.
    """
    by_image = np.zeros(len(images.logits))
    by_noise = np.empty(len(noises))
    rows = np.arange(len(images.logits))[:, None]
    best = images.probabilities[:, :1]
    for start in range(0, len(noises), _CHUNK):
        part = noises[start : start + _CHUNK]
        winner = (images.logits[:, None, :] + part[None]).argmax(axis=2)
        regret = best - images.probabilities[rows, winner]
        by_image += regret.sum(axis=1)
        by_noise[start : start + len(part)] = regret.mean(axis=0)
    by_image /= len(noises)
    error = math.sqrt(_variance(by_image) / len(by_image) + _variance(by_noise) / len(by_noise))
    return _around(float(by_noise.mean()), error, z, len(noises))


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
    """How many images would put `high` within what is allowed, were the estimate right; None when none would."""
    room, width = allowed - found.estimate, found.high - found.estimate
    if found.broken or room <= 0:
        return None
    return max(found.images, math.ceil(found.images * (width / room) ** 2))


def _variance(x: Doubles) -> float:
    return float(x.var(ddof=1)) if len(x) > 1 else 0.0


def _around(mean: float, error: float, z: float, images: int) -> Interval:
    """Bounds on the logarithm, whose error is error / mean.

    A few images carry most of the loss: such a mean is more often far too small than far too large.
    """
    factor = math.exp(min(z * error / mean, _MOST)) if mean > 0 else 1.0
    return Interval(100 * mean, 100 * mean / factor, 100 * mean * factor, images)
