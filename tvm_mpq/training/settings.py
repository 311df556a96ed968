"""How a plan is fine-tuned, how its rounding is learned, and how its bits are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mpq.errors import InvalidValueError


@dataclass(frozen=True)
class FinetuneSettings:
    """How a plan is trained.

    weight_rate is in integer steps an update, step_rate the relative change of a step size; both follow a cosine to 0.
    label_weight: of the labels' cross entropy beside the teacher's. augment: None = what the fp32 network itself takes
    for the same class. mix: whether a classifier of images also learns from pairs of them laid over each other, as long
    as no labels are used. held_share: of the samples, never learned from, at most `held_most`; the epoch that does best
    on them is kept.

    Raises
    ------
    InvalidValueError
        If a number is outside its range.
    """

    epochs: int = 30
    batch: int = 64
    weight_rate: float = 0.005
    step_rate: float = 0.001
    temperature: float = 4.0
    label_weight: float = 0.0
    augment: bool | None = None
    mix: bool = True
    held_share: float = 0.0625
    held_most: int = 256
    seed: int = 0
    checkpoint_minutes: float = 1.0

    def __post_init__(self) -> None:
        _check(self, counts=("epochs", "batch"), rates=("weight_rate", "step_rate", "temperature"))
        if not (math.isfinite(self.label_weight) and self.label_weight >= 0):
            raise InvalidValueError(f"label_weight must be 0 or more (got {self.label_weight:g})")
        if not 0 <= self.held_share < 1:
            raise InvalidValueError(f"held_share must be in [0, 1) (got {self.held_share:g})")


@dataclass(frozen=True)
class ReconstructionSettings:
    """How rounding is learned, block by block.

    updates: of each block. weight_rate is in integer steps an update, step_rate the relative change of a step size;
    both rise and follow a cosine to 0. positions: of a block's output that an update sees, as far as `least_batch` to
    `most_batch` samples have them. fisher_samples: that tell which errors count. samples: to learn from, at most.

    Raises
    ------
    InvalidValueError
        If a number is outside its range.
    """

    updates: int = 300
    positions: int = 4096
    least_batch: int = 4
    most_batch: int = 32
    weight_rate: float = 0.01
    step_rate: float = 0.0005
    fisher_samples: int = 256
    samples: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("updates", "positions", "least_batch", "most_batch", "fisher_samples", "samples")
        _check(self, counts=counts, rates=("weight_rate", "step_rate"))

    def batch_of(self, positions: int) -> int:
        """Samples of one update of a block whose output has so many positions a sample."""
        return min(self.most_batch, max(self.least_batch, self.positions // max(1, positions)))


@dataclass(frozen=True)
class BitSearchSettings:
    """How gates over bits are learned.

    weakest, strongest: of the regulariser, which rises from one to the other by the same factor at every one of the
    `updates`, in units of the distillation loss for the cost of the most bits everywhere; equal ones are a search at
    that strength. batch: samples of an update, fewer but at least `least_batch` where a run of them is more than
    `multiply_adds`, so that large networks take minutes too. gate_rate: of the gates' logits. samples: to learn from,
    at most.

    Raises
    ------
    InvalidValueError
        If a number is outside its range.
    """

    weakest: float = 1e-3
    strongest: float = 100.0
    updates: int = 440
    batch: int = 32
    least_batch: int = 4
    multiply_adds: int = 1_500_000_000
    gate_rate: float = 0.1
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        rates = ("weakest", "strongest", "gate_rate")
        _check(self, counts=("updates", "batch", "least_batch", "multiply_adds", "samples"), rates=rates)
        if self.weakest > self.strongest:
            raise InvalidValueError(f"weakest must be at most strongest, {self.strongest:g} (got {self.weakest:g})")

    def batch_of(self, macs: int) -> int:
        """Samples of one update of a network with so many multiply-adds a sample."""
        return min(self.batch, max(self.least_batch, self.multiply_adds // max(1, macs)))

    def strength(self, update: int) -> float:
        """Of the regulariser at one of the updates."""
        share = update / max(1, self.updates - 1)
        return float(self.weakest * (self.strongest / self.weakest) ** share)


def _check(
    settings: FinetuneSettings | ReconstructionSettings | BitSearchSettings,
    counts: Sequence[str],
    rates: Sequence[str],
) -> None:
    """Raises InvalidValueError if a count is below 1, or a rate not above 0."""
    for name in counts:
        if getattr(settings, name) < 1:
            raise InvalidValueError(f"{name} must be 1 or more (got {getattr(settings, name)})")
    for name in rates:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise InvalidValueError(f"{name} must be above 0 (got {value:g})")
