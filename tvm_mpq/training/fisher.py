"""Which errors of a tensor change what the network answers, and which do not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tvm_mpq.execute.accuracy import classifies
from tvm_mpq.passes.lowering import StoredValue, made_by
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.training.course import generator
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.objective import is_probability, scores
from tvm_mpq.training.values import TensorValue

DAMPING = 0.1
"""Share of the mean diagonal that is added: few samples leave directions of which they say nothing."""

WIDEST = 2048
"""Channels up to which channels are told apart; of wider tensors every error counts alike."""

_CHUNK = 8


def error_factors(
    teacher: QuantizedNetwork, inputs: Sequence[Tensor], tensors: Collection[str], seed: int
) -> dict[str, Tensor]:
    """Tensor -> L, float32[C, C], under which an error e of its channels counts |e L|^2.

    L L^T is the mean over samples and positions of g g^T, with g the gradient of -log p(y) for a class y drawn as the
    network itself deals them: the Fisher information, which is the second derivative of the KL divergence that an error
    causes (as BRECQ, Li et al. 2021, arXiv 2102.05426, but with channels together and no labels). Networks that do not
    classify: y is a normal variable around the output, and the same holds for their squared error.

    Parameters
    ----------
    teacher
        The float network.
    inputs : float32[N, ...] each
    tensors
        Names; those that no gradient reaches, or of more than `WIDEST` channels, are left out.
    """
    wanted = {StoredValue(name, FLOAT_BITS) for name in tensors}
    frozen = teacher.eval().requires_grad_(False)
    random = generator(seed)
    sums: dict[str, Tensor] = {}
    for part in zip(*(x.split(_CHUNK) for x in inputs), strict=True):
        seen = _run(frozen, part, wanted)
        surprise = _surprise(frozen, seen.outputs, random)
        if not surprise.requires_grad:
            continue
        surprise.backward()
        for value, x in seen.watched.items():
            if x.grad is not None:
                gradient = x.grad.reshape(-1, x.shape[-1])
                sums[value.tensor] = sums.get(value.tensor, torch.zeros(())) + gradient.T @ gradient
    return {name: _factor(total) for name, total in sums.items() if float(total.diagonal().sum()) > 0}


class _Seen:
    def __init__(self) -> None:
        self.watched: dict[StoredValue, Tensor] = {}
        self.outputs: list[Tensor] = []


def _run(teacher: QuantizedNetwork, inputs: Sequence[Tensor], wanted: Collection[StoredValue]) -> _Seen:
    """One run whose wanted tensors keep their gradients."""
    seen, held, quants = _Seen(), teacher.start(inputs), teacher.quants()
    for i, step in enumerate(teacher.steps):
        teacher.run_step(i, held, quants)
        value = made_by(step)
        x = held[value].data
        if value in wanted and x.is_floating_point() and x.ndim > 1 and x.shape[-1] <= WIDEST:
            if x.requires_grad:
                x.retain_grad()
            else:
                x = x.detach().requires_grad_()
                held[value] = TensorValue(x)
            seen.watched[value] = x
    seen.outputs = [held[StoredValue(name, FLOAT_BITS)].data for name in teacher.graph.outputs]
    return seen


def _surprise(teacher: QuantizedNetwork, outputs: Sequence[Tensor], random: torch.Generator) -> Tensor:
    """float32[]: sum over samples of -log p(y), y drawn from p."""
    if not classifies(teacher.graph):
        errors = [torch.randn(y.shape, generator=random) for y in outputs]
        sizes = [y.detach().square().mean().sqrt().clamp(min=1e-30) for y in outputs]
        return torch.stack([(y * e / s).sum() for y, e, s in zip(outputs, errors, sizes, strict=True)]).sum()
    logits = scores(outputs[0], probabilities=is_probability(outputs[0]))
    drawn = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=random)[:, 0]
    return functional.cross_entropy(logits, drawn, reduction="sum")


def _factor(total: Tensor) -> Tensor:
    """The lower triangular L of the damped matrix, whose mean diagonal is 1."""
    mean = total / total.diagonal().mean()
    damped = (mean + DAMPING * torch.eye(len(mean))) / (1 + DAMPING)
    found: Tensor = torch.linalg.cholesky(damped)
    return found
