"""Images shown anew in each epoch: mirrored and shifted, where the fp32 network takes that for the same thing, and laid
over each other, for the fp32 network says what it makes of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tvm_mpq.passes.lowering import KernelStep, Step
from tvm_mpq.schema import ConvertWorkload
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.settings import FinetuneSettings

AGREES = 0.9
"""Share of samples whose class the fp32 network must keep under a change, for that to be used."""

_SHIFT = 8
"""A shift is at most this part of the image's side."""


@dataclass(frozen=True)
class Augmentation:
    """mirror: right and left at random; shift: by up to 1/8 of each side, what comes in being reflected.

    mix: each sample gets another one laid over it, in a random share (mixup, Zhang et al. 2018, arXiv 1710.09412; with
    a teacher's answers, Beyer et al. 2022, arXiv 2106.05237). All of them, because ResNet-20 at w2a4, taught for 9
    epochs, came nearer to fp32 on test images than with half of them: KL 0.380 and 0.407, 0.442 untaught. axes: the
    height's and the width's place among the four axes.
    """

    mirror: bool = False
    shift: bool = False
    mix: bool = False
    axes: tuple[int, int] = (2, 3)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of float32[N, ...]; which change each sample gets comes from `generator`."""
        if self.mirror:
            chosen = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(chosen.reshape(-1, 1, 1, 1), x.flip(self.axes[1]), x)
        if self.shift:
            x = self._shifted(x, generator)
        return self._mixed(x, generator) if self.mix else x

    @staticmethod
    def _mixed(x: Tensor, generator: torch.Generator) -> Tensor:
        own = torch.rand(len(x), generator=generator).reshape(-1, 1, 1, 1)
        return own * x + (1 - own) * x[torch.randperm(len(x), generator=generator)]

    def _shifted(self, x: Tensor, generator: torch.Generator) -> Tensor:
        maps = x.movedim(self.axes, (2, 3))
        height, width = maps.shape[2:]
        most = [size // _SHIFT for size in (height, width)]
        padded = functional.pad(maps, (most[1], most[1], most[0], most[0]), mode="reflect")
        offsets = [torch.randint(0, 2 * m + 1, (len(x),), generator=generator).tolist() for m in most]
        parts = [
            padded[i, :, top : top + height, left : left + width]
            for i, (top, left) in enumerate(zip(*offsets, strict=True))
        ]
        return torch.stack(parts).movedim((2, 3), self.axes)


def chosen_augmentation(
    teacher: QuantizedNetwork, inputs: list[Tensor], settings: FinetuneSettings, *, classifier: bool
) -> Augmentation:
    """As `settings` say. augment None: what leaves the class of at least 90 % of the samples, as the teacher sees it.

    Only for networks of one float32 input of four axes; without being asked for only where they classify. Samples are
    mixed where the teacher's answers are all that is learned from: nobody knows the label of two in one.
    """
    images = len(inputs) == 1 and inputs[0].ndim == 4 and inputs[0].dtype == torch.float32
    if not images:
        return Augmentation()
    axes = image_axes(teacher.steps, teacher.graph.inputs[0])
    found = Augmentation()
    if settings.augment:
        found = Augmentation(mirror=True, shift=True, axes=axes)
    elif settings.augment is None and classifier:
        found = safe_augmentation(teacher, inputs[0], axes, settings)
    return dataclasses.replace(found, mix=settings.mix and classifier and settings.label_weight == 0)


def image_axes(steps: tuple[Step, ...], name: str) -> tuple[int, int]:
    """Where height and width stand in a network's input of four axes: [N, C, H, W], or [N, H, W, C]."""
    for step in steps:
        if not isinstance(step, KernelStep) or step.inputs[0].tensor != name:
            continue
        work = step.kernel.request.workload
        if isinstance(work, ConvertWorkload) and work.channels_first:
            return 2, 3
    return 1, 2


@torch.no_grad()
def safe_augmentation(
    teacher: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, axes: tuple[int, int], settings: FinetuneSettings
) -> Augmentation:
    """The changes of float32[N, ...] under which the teacher keeps its class often enough."""

    def classes(x: Tensor) -> Tensor:
        return torch.cat([teacher(part)[0] for part in x.split(settings.batch)]).flatten(1).argmax(dim=1)

    plain, kept = classes(x), {}
    for change in ("mirror", "shift"):
        random = torch.Generator().manual_seed(settings.seed)
        changed = Augmentation(mirror=change == "mirror", shift=change == "shift", axes=axes)(x, random)
        kept[change] = float((classes(changed) == plain).float().mean()) >= AGREES
    return Augmentation(mirror=kept["mirror"], shift=kept["shift"], axes=axes)
