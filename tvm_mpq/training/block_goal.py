"""What a block shall leave, and how far from it the block is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvm_mpq.passes.lowering import StoredValue
from tvm_mpq.training.batched_walk import CHUNK, BatchedWalk
from tvm_mpq.training.values import TensorValue


class BlockGoal:
    """What a block shall leave. wanted: float32[N, ...] by output; factors: `error_factors`, where there are any."""

    def __init__(self, wanted: Mapping[StoredValue, Tensor], factors: Mapping[StoredValue, Tensor]) -> None:
        self.wanted, self._factors = wanted, factors

    def squares(self, held: Mapping[StoredValue, TensorValue], rows: Tensor | slice) -> dict[StoredValue, Tensor]:
        """float32[] mean squared error of each output for some samples, each error by how much it counts."""
        found = {}
        for value, wanted in self.wanted.items():
            goal = wanted[rows]
            error = held[value].real.reshape(goal.shape) - goal
            factor = self._factors.get(value)
            found[value] = (error if factor is None else error @ factor).square().mean()
        return found

    def errors(self, walk: BatchedWalk, block: range) -> dict[StoredValue, float]:
        """The same over all samples, with the integers of now."""
        sums = dict.fromkeys(self.wanted, 0.0)
        for start in range(0, walk.count, CHUNK):
            rows = slice(start, start + CHUNK)
            count = min(CHUNK, walk.count - start)
            for value, square in self.squares(walk.run(block, rows), rows).items():
                sums[value] += float(square) * count / walk.count
        return sums

    @staticmethod
    def relative(errors: Mapping[StoredValue, Tensor], before: Mapping[StoredValue, float]) -> Tensor:
        """Mean over outputs of the error over what it was; outputs that had none are left out."""
        shares: list[Tensor] = [errors[value] / old for value, old in before.items() if old > 0]
        return torch.stack(shares).mean()
