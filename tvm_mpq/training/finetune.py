"""Fine-tuning: weights, biases and step sizes of a plan learn to give what the fp32 network gives.

Quantization-aware training with learned step sizes (LSQ, Esser et al. 2020, arXiv 1902.08153) and the fp32 network as
teacher. The plan's precisions stay; operators that it has in float keep their weights.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.execute.accuracy import classifies
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Graph
from tvm_mpq.schema import Plan, Progress
from tvm_mpq.training.augment import Augmentation, chosen_augmentation
from tvm_mpq.training.batches import answers_of, outputs_of
from tvm_mpq.training.checkpoint import Checkpoint
from tvm_mpq.training.course import generator, identity, share_of_rate, split
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.objective import Objective, hits
from tvm_mpq.training.optimizer import ScaledAdam, trained
from tvm_mpq.training.settings import FinetuneSettings


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch; epoch 0: before any. hits: of `held` samples, as labels (or the teacher) say.

    loss: the mean over the epoch's updates, NaN before any; held_loss: on the samples that are not learned from, laid
    over each other where those that are learned from are.
    """

    epoch: int
    loss: float
    held_loss: float
    hits: int
    held: int


@dataclass(frozen=True)
class Finetuned:
    """The learned plan and its integers; epochs: their course; kept: which of them it is; teacher_hits: fp32's.

    seconds_per_epoch: of this call's own epochs, 0 when it only took up a finished training.
    """

    plan: Plan
    codes: WeightCodes
    epochs: tuple[Epoch, ...]
    kept: int
    teacher_hits: int
    augmentation: Augmentation
    seconds_per_epoch: float


def finetune(
    graph: Graph,
    plan: Plan,
    features: frozenset[str],
    data: Dataset,
    settings: FinetuneSettings,
    *,
    codes: WeightCodes | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Finetuned:
    """Train a plan on data; equal arguments give equal results on one machine, interrupted or not.

    Parameters
    ----------
    codes
        Weights quantized elsewhere, to start from.
    data
        Samples named as the graph's inputs; labels are used where they are given and `label_weight` asks for them.
    checkpoint
        File that the state is kept in. A call that finds the state of the same training goes on from there.

    Raises
    ------
    UnsupportedModelError
        If an operator has no form in PyTorch, or results depend on the batch.
    DataError
        If there are fewer than two samples, or the teacher gives NaN or infinity.
    InvalidValueError
        If the plan has nothing to train, or training diverged.
    """
    return _Training(graph, plan, features, data, settings, codes, checkpoint, progress, say).run()


class _Training:
    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        features: frozenset[str],
        data: Dataset,
        settings: FinetuneSettings,
        codes: WeightCodes | None,
        checkpoint: Path | None,
        progress: Progress | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self._settings, self._progress, self._say = settings, progress, say
        self._network = QuantizedNetwork(graph, plan, features, codes)
        if not trained(self._network):
            raise InvalidValueError("there is nothing to fine-tune: the plan has no integer operator")
        self._teacher = QuantizedNetwork(graph, float_plan(graph, plan), features).eval()
        self._inputs = [torch.from_numpy(np.ascontiguousarray(data.arrays[name])) for name in graph.inputs]
        self._labels = None if data.labels is None else torch.from_numpy(data.labels)
        classifier = classifies(graph)
        self._objective = Objective(classifier, settings.temperature, settings.label_weight)
        self._rows, self._held = split(len(self._inputs[0]), settings)
        self._plain = held = [x[self._held] for x in self._inputs]
        self._teacher_held = answers_of(self._teacher, held, settings.batch)
        self._augmentation = chosen_augmentation(self._teacher, held, settings, classifier=classifier)
        self._judged, self._teacher_judged = held, self._teacher_held
        if self._augmentation.mix:
            # A network is sure of what it was trained on: laid over each other, such samples are as hard as new ones.
            self._judged = [Augmentation(mix=True)(held[0], generator(settings.seed, 0, 0, 0)), *held[1:]]
            self._teacher_judged = outputs_of(self._teacher, self._judged, settings.batch)
        self._optimizer = ScaledAdam(
            trained(self._network), self._network.ranges.values(), settings.weight_rate, settings.step_rate
        )
        self._batches = math.ceil(len(self._rows) / settings.batch)
        of = identity(plan, codes, data, dataclasses.replace(settings, checkpoint_minutes=0), graph)
        self._checkpoint = None if checkpoint is None else Checkpoint(checkpoint, of)
        self._epochs: list[Epoch] = []
        self._best: dict[str, Any] = {}
        self._kept = 0

    def run(self) -> Finetuned:
        done, loss_sum = self._resume()
        total = self._settings.epochs * self._batches
        if not self._epochs:
            self._judge(0, math.nan)
        began, first, saved_at = time.monotonic(), done, time.monotonic()
        while done < total:
            epoch, batch = divmod(done, self._batches)
            loss_sum = (0.0 if batch == 0 else loss_sum) + self._learn(epoch, batch, share_of_rate(done, total))
            done += 1
            if self._progress:
                self._progress(done, total, "fine-tuning")
            if done % self._batches == 0:
                self._judge(epoch + 1, loss_sum / self._batches)
            if time.monotonic() - saved_at > 60 * self._settings.checkpoint_minutes or done == total:
                self._save(done, loss_sum)
                saved_at = time.monotonic()
        seconds = (time.monotonic() - began) / max(1, done - first) * self._batches if done > first else 0.0
        self._network.load_state_dict(self._best)
        return Finetuned(
            self._network.learned_plan(),
            self._network.learned_codes(),
            tuple(self._epochs),
            self._kept,
            hits(self._teacher_held[0], self._wanted(self._held)),
            self._augmentation,
            seconds,
        )

    def _learn(self, epoch: int, batch: int, share_of_rate: float) -> float:
        """One update; returns the loss before it."""
        settings = self._settings
        order = self._rows[torch.randperm(len(self._rows), generator=generator(settings.seed, epoch))]
        rows = order[batch * settings.batch : (batch + 1) * settings.batch]
        inputs = [x[rows] for x in self._inputs]
        inputs[0] = self._augmentation(inputs[0], generator(settings.seed, epoch, batch))
        with torch.no_grad():
            wanted = self._teacher(*inputs)
        self._network.train()
        labels = None if self._labels is None else self._labels[rows]
        loss = self._objective.loss(self._network(*inputs), wanted, labels)
        if not torch.isfinite(loss):
            raise InvalidValueError(
                f"fine-tuning diverged in epoch {epoch + 1}; take lower rates than weight_rate={settings.weight_rate:g}"
                f" and step_rate={settings.step_rate:g}"
            )
        self._optimizer.update(loss, share_of_rate)
        return float(loss.detach())

    def _judge(self, epoch: int, loss: float) -> None:
        """See how the network does on what it does not learn from, and keep it if it is the best so far."""
        network, wanted = self._network.eval(), self._wanted(self._held)
        labels = wanted if self._labels is not None else None
        plain = outputs_of(network, self._plain, self._settings.batch)
        judged = plain if self._judged is self._plain else outputs_of(network, self._judged, self._settings.batch)
        held_loss = float(self._objective.loss(judged, self._teacher_judged, labels))
        found = Epoch(epoch, loss, held_loss, hits(plain[0], wanted), len(self._held))
        if not self._epochs or held_loss <= min(e.held_loss for e in self._epochs):
            self._best, self._kept = copy.deepcopy(self._network.state_dict()), epoch
        self._epochs.append(found)
        if self._say:
            self._say(self._line(found))

    def _line(self, found: Epoch) -> str:
        where = f"epoch {found.epoch} of {self._settings.epochs}"
        text = f"fine-tuning, {where}: loss {found.held_loss:.4g} on samples kept aside"
        if not self._objective.classifier:
            return text
        fp32 = hits(self._teacher_held[0], self._wanted(self._held))
        return f"{text}, {found.hits} of {found.held} right (fp32: {fp32})"

    def _wanted(self, rows: Tensor) -> Tensor:
        """int64[N] classes by labels, else by the teacher."""
        if self._labels is not None:
            return self._labels[rows]
        return self._teacher_held[0].flatten(1).argmax(dim=1)

    def _save(self, done: int, loss_sum: float) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.save(
            {
                "done": done,
                "loss_sum": loss_sum,
                "network": self._network.state_dict(),
                "optimizer": self._optimizer.state(),
                "best": self._best,
                "kept": self._kept,
                "epochs": [dataclasses.asdict(e) for e in self._epochs],
            }
        )

    def _resume(self) -> tuple[int, float]:
        """How many updates are done, and the sum of the losses of the epoch that they stopped in."""
        state = None if self._checkpoint is None else self._checkpoint.load()
        if state is None:
            return 0, 0.0
        self._network.load_state_dict(state["network"])
        self._optimizer.restore(state["optimizer"])
        self._best, self._kept = state["best"], state["kept"]
        self._epochs = [Epoch(**e) for e in state["epochs"]]
        if self._say:
            self._say(f"fine-tuning goes on after {state['done'] / self._batches:.1f} epochs")
        return int(state["done"]), float(state["loss_sum"])
