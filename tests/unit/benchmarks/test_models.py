"""The networks written out for the comparison: their inputs, and the same weights every time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks are torch modules")
BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")


@pytest.fixture(scope="module")
def models() -> Iterator[Any]:
    sys.path.insert(0, BENCHMARKS)
    yield importlib.import_module("models")
    sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize(("name", "outputs"), [("ds_cnn", 12), ("bert_tiny", 2)])
def test_outputs_and_seed(models: Any, name: str, outputs: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *models.NETWORKS[name].size), dtype=np.float32))
    with torch.no_grad():
        first, second, other = (models.build(name, seed)(x) for seed in (0, 0, 1))
    assert first.shape == (2, outputs) and torch.isfinite(first).all()
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_sizes_of_the_transformers(models: Any) -> None:
    """DeiT-Tiny has 5.7 million weights; the encoder 12 * 128^2 a layer and little else."""
    with torch.device("meta"):
        vit, bert = (models.NETWORKS[name].make() for name in ("vit_tiny", "bert_tiny"))
    counts = [sum(p.numel() for p in network.parameters()) for network in (vit, bert)]
    assert abs(counts[0] - 5.72e6) < 0.05e6
    assert abs(counts[1] - 2 * 12 * 128**2 - 128**2) < 0.01e6
