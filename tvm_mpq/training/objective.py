"""What a fine-tuned network is to be like: its fp32 original, and the labels where there are any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tvm_mpq.execute.accuracy import SUM_ERROR


@dataclass(frozen=True)
class Objective:
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531).

    classifier: KL(softmax(teacher / T) || softmax(student / T)) * T^2 plus label_weight * cross entropy of the labels;
    others: the mean over outputs of squared error over the teacher's mean square.
    """

    classifier: bool
    temperature: float
    label_weight: float

    def loss(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], labels: Tensor | None) -> Tensor:
        """float32[]; each output float32[N, ...], labels int64[N]."""
        if not self.classifier:
            pairs = zip(student, teacher, strict=True)
            return torch.stack(
                [functional.mse_loss(s, t) / t.square().mean().clamp(min=1e-12) for s, t in pairs]
            ).mean()
        logits, wanted = (scores(y[0], probabilities=is_probability(teacher[0])) for y in (student, teacher))
        found, goal = (functional.log_softmax(y / self.temperature, dim=1) for y in (logits, wanted))
        loss = functional.kl_div(found, goal, reduction="batchmean", log_target=True) * self.temperature**2
        if labels is not None and self.label_weight > 0:
            loss = loss + self.label_weight * functional.cross_entropy(logits, labels)
        return loss


def is_probability(y: Tensor) -> bool:
    """Whether float32[N, ...] holds what a softmax gives."""
    flat = y.detach().flatten(1)
    return bool((flat >= 0).all() and ((flat.sum(dim=1) - 1).abs() < SUM_ERROR).all())


def scores(y: Tensor, *, probabilities: bool) -> Tensor:
    """float32[N, C] whose softmax are the network's probabilities."""
    flat = y.flatten(1)
    return flat.clamp(min=1e-8).log() if probabilities else flat


def hits(student: Tensor, wanted: Tensor) -> int:
    """How many samples get the wanted class, int64[N]."""
    return int((student.flatten(1).argmax(dim=1) == wanted).sum())
