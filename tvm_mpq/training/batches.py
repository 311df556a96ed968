"""Whether a network may be run on any number of samples at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tvm_mpq.errors import DataError, UnsupportedModelError
from tvm_mpq.training.network import QuantizedNetwork


def check_finite(outputs: Sequence[Tensor]) -> None:
    """Raises DataError if an output of the float network is NaN or infinite."""
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
    check_finite(together)
    alone = [teacher(*(x[row : row + 1] for x in inputs)) for row in range(len(inputs[0]))]
    for y, parts in zip(together, zip(*alone, strict=True), strict=True):
        singly = torch.cat(parts)
        bound = 1e-4 * float(singly.abs().max()) + 1e-30
        if len(y) != len(singly) or not torch.allclose(singly, y, rtol=1e-3, atol=bound):
            raise UnsupportedModelError(
                "the network cannot be trained in batches: its results for two samples at once are not those for each "
                "alone; axis 0 of every tensor must be the batch"
            )
