"""The fixed course of a training: which samples, in which order, at which rate; all of it follows from the settings."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.errors import DataError
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Graph
from tvm_mpq.schema import Plan
from tvm_mpq.training.settings import FinetuneSettings

VERSION = 3
"""Part of a checkpoint's identity: raise it when equal settings give another result."""

_WARM_UP = 0.05
"""Share of all updates during which the learning rates rise to their full size."""


def split(count: int, settings: FinetuneSettings) -> tuple[Tensor, Tensor]:
    """int64 positions to learn from and to judge by; the same ones where there are too few to keep any aside."""
    if count < 2:
        raise DataError(f"fine-tuning needs two samples or more (got {count})")
    order = torch.randperm(count, generator=generator(settings.seed))
    held = min(settings.held_most, int(count * settings.held_share))
    return (order[held:], order[:held]) if held > 1 else (order, order[: settings.held_most])


def generator(*numbers: int) -> torch.Generator:
    """Random numbers of their own for each seed, epoch and update, so that a training can go on anywhere."""
    state = np.random.SeedSequence(numbers).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def share_of_rate(done: int, total: int) -> float:
    """A linear rise, then half a cosine down to 0."""
    rise = max(1, int(total * _WARM_UP))
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(1, total - rise)))


def identity(plan: Plan, codes: WeightCodes | None, data: Dataset, settings: object, graph: Graph) -> str:
    """Of all that the result depends on, the machine's number of threads among it; settings: by their `repr`."""
    digest = hashlib.sha256()
    ranges = repr(sorted(plan.tensors.items()))
    for part in (VERSION, sorted(plan.operators.items()), sorted(plan.formats.items()), ranges, settings):
        digest.update(repr(part).encode())
    digest.update((codes.digest if codes else "").encode())
    digest.update(data.fingerprint.encode())
    for node in graph.nodes:
        digest.update(f"{node.name} {node.kind} {node.workload}".encode())
        for array in (node.weight, node.bias):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    digest.update(f"{torch.__version__} {torch.get_num_threads()}".encode())
    return digest.hexdigest()
