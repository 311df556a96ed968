"""Images mirrored, shifted and laid over each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvm_mpq.training.augment import Augmentation, safe_augmentation
from tvm_mpq.training.settings import FinetuneSettings


def images(axes: tuple[int, int]) -> torch.Tensor:
    x = torch.arange(6 * 3 * 16 * 24, dtype=torch.float32).reshape(6, 3, 16, 24)
    return x if axes == (2, 3) else x.permute(0, 2, 3, 1).contiguous()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("axes", [(2, 3), (1, 2)])
def test_some_images_are_mirrored(axes: tuple[int, int]) -> None:
    x = images(axes)
    y = Augmentation(mirror=True, axes=axes)(x, generator())
    same = [torch.equal(a, b) for a, b in zip(x, y, strict=True)]
    mirrored = [torch.equal(a.flip(axes[1] - 1), b) for a, b in zip(x, y, strict=True)]
    assert any(same) and any(mirrored) and all(a != b for a, b in zip(same, mirrored, strict=True))


@pytest.mark.parametrize("axes", [(2, 3), (1, 2)])
def test_images_are_shifted_by_an_eighth_at_most(axes: tuple[int, int]) -> None:
    x = images(axes)
    y = Augmentation(shift=True, axes=axes)(x, generator())
    assert y.shape == x.shape
    found = set()
    for a, b in zip(x.movedim(axes, (2, 3)).numpy(), y.movedim(axes, (2, 3)).numpy(), strict=True):
        padded = np.pad(a, ((0, 0), (2, 2), (3, 3)), mode="reflect")
        offsets = [(i, j) for i in range(5) for j in range(7) if (padded[:, i : i + 16, j : j + 24] == b).all()]
        assert len(offsets) == 1
        found.update(offsets)
    assert len(found) > 2


def test_images_have_others_laid_over_them() -> None:
    x = torch.eye(200).reshape(200, 200, 1, 1)
    y = Augmentation(mix=True)(x, generator()).reshape(200, 200)
    torch.testing.assert_close(y.sum(dim=1), torch.ones(200))
    assert set((y > 0).sum(dim=1).tolist()) <= {1, 2}, "two images, or one over itself"
    own = y.diagonal()
    assert float(own.min()) < 0.1 and float(own.quantile(0.9)) > 0.8, "in any shares"
    assert float((own < 1).float().mean()) > 0.9


def test_nothing_is_done_by_default() -> None:
    x = images((2, 3))
    assert Augmentation()(x, generator()) is x


def test_the_teacher_says_what_is_safe() -> None:
    """One that looks at which half is brighter minds mirroring, and is seldom confused by a shift."""
    x = torch.zeros(40, 1, 16, 16)
    for i, image in enumerate(x):
        image[0, 4:12, (2 if i % 2 else 10) : (6 if i % 2 else 14)] = 1.0 + i

    def halves(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.stack([x[..., :8].sum(dim=(1, 2, 3)), x[..., 8:].sum(dim=(1, 2, 3))], dim=1),)

    found = safe_augmentation(halves, x, (2, 3), FinetuneSettings())
    assert found == Augmentation(mirror=False, shift=True, axes=(2, 3))

    def corner(x: torch.Tensor) -> tuple[torch.Tensor]:
        bright = x[:, 0, 4, 2] + x[:, 0, 4, 13]
        return (torch.stack([bright, 0.5 - bright], dim=1),)

    found = safe_augmentation(corner, x, (2, 3), FinetuneSettings())
    assert found == Augmentation(mirror=True, shift=False, axes=(2, 3))
