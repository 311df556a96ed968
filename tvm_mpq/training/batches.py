"""Networks run on many samples: some of them at a time, and whether that may be done."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tvm_mpq.errors import DataError, UnsupportedModelError
from tvm_mpq.training.network import QuantizedNetwork


@torch.no_grad()
def outputs_of(network: QuantizedNetwork, inputs: Sequence[Tensor], batch: int) -> tuple[Tensor, ...]:
    """float32[N, ...] of each output, `batch` samples at a time. inputs: float32[N, ...] each."""
    parts = [network(*some) for some in zip(*(x.split(batch) for x in inputs), strict=True)]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def answers_of(teacher: QuantizedNetwork, inputs: Sequence[Tensor], batch: int) -> tuple[Tensor, ...]:
    """`outputs_of` the float network, after `check_batches`. Raises as that does, and DataError for NaN or infinity."""
    check_batches(teacher, [x[:2] for x in inputs])
    outputs: tuple[Tensor, ...] = outputs_of(teacher, inputs, batch)
    _check_finite(outputs)
    return outputs


def _check_finite(outputs: Sequence[Tensor]) -> None:
    if not all(bool(torch.isfinite(y).all()) for y in outputs):
        raise DataError("the fp32 network gives NaN or infinity on the data to learn from; check data and weights")


@torch.no_grad()
def check_batches(teacher: QuantizedNetwork, inputs: Sequence[Tensor]) -> None:
    """Outputs of a batch are those of its samples.

    teacher: the float network. inputs: float32[N, ...] each, of a few samples.

    Raises
    ------
    DataError
        If an output is NaN or infinite.
    UnsupportedModelError
        If axis 0 is not the batch everywhere.
    """
    together = teacher(*inputs)
    _check_finite(together)
    alone = [teacher(*(x[row : row + 1] for x in inputs)) for row in range(len(inputs[0]))]
    for y, parts in zip(together, zip(*alone, strict=True), strict=True):
        singly = torch.cat(parts)
        bound = 1e-4 * float(singly.abs().max()) + 1e-30
        if len(y) != len(singly) or not torch.allclose(singly, y, rtol=1e-3, atol=bound):
            raise UnsupportedModelError(
                "the network cannot be trained in batches: its results for two samples at once are not those for each "
                "alone; axis 0 of every tensor must be the batch"
            )
