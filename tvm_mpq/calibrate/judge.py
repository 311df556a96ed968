"""How many accuracy points a plan will lose on new images, told from images that may have been trained on.

The estimate is `crossed` of `tvm_mpq.select.paired`: noise that the plan puts onto logits, against how close calls
are for fp32. fp32 is sure of images that it was trained on, and nothing changes their class. Where they look trained
on, both networks are therefore run on pairs of them laid over each other, MIX * one + (1 - MIX) * another, as mixup
trains with (Zhang et al., arXiv 1710.09412); whoever names the class of the first is right. Measured on CIFAR-10, calls
on such pairs are as close as on test images, and fp32 is surer than it is right, though less so than there.

Images are looked at in a fixed random order, and no more of them than it takes: after `LOOKS` images a plan that is
clearly within what is allowed, or clearly not, is done with. So that looking often does not make luck likelier, each
early look spends a part of the error that is allowed (Lan and DeMets, Biometrika 70, 1983; by Bonferroni's bound).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.sensitivity import Loss
from tvm_mpq.execute.accuracy import class_scores, relative_error
from tvm_mpq.select.paired import (
    CONFIDENCE,
    Doubles,
    Interval,
    crossed,
    exact,
    mean_of,
    softmax,
    student,
    temperature,
)
from tvm_mpq.select.quality import Quality

MIX = 0.8
"""Share of the first image in a pair laid over each other."""

MIXED_RUNS = 500
"""Runs of fp32 on such pairs, at most."""

TRAINED_ON = 0.98
"""Share of images that fp32 gets right (without labels: its mean probability) from which they look trained on."""

LOOKS = (25, 100, 300)
"""Runs after which a plan may be done with early."""

EARLY_ERROR = 0.01
"""Share of the allowed error that each early look spends, one-sided."""

SEED = 0
"""Of the order of images and of the pairs."""

OutputsOf = Callable[[Dataset], list[npt.NDArray[Any]]]
"""First outputs of a network for each run of the data."""


def shuffled(data: Dataset, count: int) -> Dataset:
    """At most `count` runs, evenly spaced over the data, in a random order that is always the same."""
    used = data.head(count)
    return used.runs(np.random.default_rng(SEED).permutation(len(used)))


def mixed(data: Dataset, count: int) -> Dataset | None:
    """At most `count` runs of pairs of images, laid over each other, with the labels of the first of each; None where
    inputs are not floats, or have no batch axis, or there is one image."""
    used = data.head(count)
    images = len(used) * used.batch
    if images < 2 or used.whole or any(x.dtype.kind != "f" for x in used.arrays.values()):
        return None
    other = (np.arange(images) + np.random.default_rng(SEED).integers(1, images, images)) % images
    arrays = {n: (MIX * x[:images] + (1 - MIX) * x[other]).astype(x.dtype) for n, x in used.arrays.items()}
    return replace(used, arrays=arrays)


@dataclass(frozen=True)
class Basis:
    """What judgements stand on. right: share of images that fp32 gets right, None without labels; sure: its mean
    probability of the class it names; mixed: pairs that stand for new images, 0 = none do; temperature: what fp32's
    logits are divided by before they are probabilities, 1 without labels."""

    images: int
    right: float | None
    sure: float
    trained_on: bool
    mixed: int
    temperature: float = 1.0


class Judge:
    """Tells from a plan's outputs how much it loses. Create it with the fp32 network; then ask for each plan.

    Parameters
    ----------
    fp32
        Runs the fp32 network.
    data
        Images to judge on, in the order in which they are looked at.
    classifies
        Whether outputs are scores of classes; otherwise the drop is the mean relative error, in percent.
    metric
        Of `Quality.loss`: `kl` or `mse`.
    allowed
        Points that may be lost; None = every plan is run on all images.
    new
        Whether these images are known to be new to the network: then they are never taken for trained on.
    """

    _scores: Doubles  # fp32's logits, where it classifies

    def __init__(
        self, fp32: OutputsOf, data: Dataset, *, classifies: bool, metric: str, allowed: float | None, new: bool = False
    ) -> None:
        started = time.monotonic()
        self._data, self._classifies, self._metric, self._allowed = data, classifies, metric, allowed
        self._reference = fp32(data)
        self.basis = Basis(len(data) * data.batch, None, 0.0, False, 0)
        self.plans = 0
        if classifies:
            self._look_at_classes(fp32, new)
        self.seconds = time.monotonic() - started

    def _look_at_classes(self, fp32: OutputsOf, new: bool) -> None:
        """Find out what the images are worth; where they look trained on, take pairs of them instead."""
        data, logits = self._data, rows_of(self._reference)
        count, named = len(logits), logits.argmax(axis=1)
        right = None if data.labels is None else float((named == data.labels[:count]).mean())
        sure = float(softmax(logits).max(axis=1).mean())
        trained_on = not new and not data.synthetic and (sure if right is None else right) >= TRAINED_ON
        known = replace(data, labels=named) if data.labels is None else data
        pairs = mixed(known, MIXED_RUNS) if trained_on else None
        if pairs is not None:
            self._data, self._reference = pairs, fp32(pairs)
            logits = rows_of(self._reference)
        self._scores = logits
        labels = self._data.labels
        heat = 1.0 if labels is None else temperature(logits, labels[: len(logits)])
        self.basis = Basis(count, right, sure, trained_on, 0 if pairs is None else len(logits), heat)

    def __call__(self, run: OutputsOf, allowed: float | None = None) -> Quality:
        """The quality of the plan whose network `run` runs; allowed: as above, for this plan alone."""
        started = time.monotonic()
        try:
            return self._judged(run, self._allowed if allowed is None else allowed)
        finally:
            self.plans += 1
            self.seconds += time.monotonic() - started

    def _judged(self, run: OutputsOf, allowed: float | None) -> Quality:
        outputs: list[npt.NDArray[Any]] = []
        looks = [count for count in LOOKS if count < len(self._data) and allowed is not None]
        for spent, count in enumerate((*looks, len(self._data))):
            outputs += run(self._data.runs(np.arange(len(outputs), count)))
            if not all(np.isfinite(output).all() for output in outputs):
                break
            last = count == len(self._data)
            error = 1 - CONFIDENCE - spent * EARLY_ERROR if last else EARLY_ERROR
            drop = self._drop(outputs, 1 - error)
            if last or _is_clear(drop, allowed):
                return Quality(drop, self._loss(outputs))
        return Quality(exact(math.inf, len(outputs)), math.inf)

    def _drop(self, outputs: list[npt.NDArray[Any]], level: float) -> Interval:
        if not self._classifies:
            errors = [relative_error(o, r) for o, r in zip(outputs, self._reference[: len(outputs)], strict=True)]
            return mean_of(np.array(errors), student(len(errors), level))
        after = rows_of(outputs, self._reference)
        return crossed(self._scores[: len(after)], after, student(len(after), level), self.basis.temperature)

    def _loss(self, outputs: list[npt.NDArray[Any]]) -> float:
        sums = Loss()
        for reference, output in zip(self._reference[: len(outputs)], outputs, strict=True):
            sums.add(reference, output, None)
        return sums.mean(self._metric)


def _is_clear(drop: Interval, allowed: float | None) -> bool:
    return allowed is not None and (drop.high <= allowed or drop.low > allowed)


def rows_of(outputs: Sequence[npt.NDArray[Any]], reference: Sequence[npt.NDArray[Any]] | None = None) -> Doubles:
    """float64[images, classes]: logits of first outputs [batch, classes, 1, ...]. reference: fp32's; None = these."""
    known = None if reference is None else np.concatenate(reference)
    return class_scores(np.concatenate(outputs), known)
