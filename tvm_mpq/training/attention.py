"""Attention on floats and on integers; on integers its numbers are those of `numerics.attention`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tvm_mpq.numerics.attention import operand_views, weight_bytes
from tvm_mpq.schema import AttentionWorkload
from tvm_mpq.training.arithmetic import finished, multiplier
from tvm_mpq.training.straight_through import replaced
from tvm_mpq.training.values import Quant, TensorValue

_MOST = 255
"""What the heaviest key weighs."""


def attention_rule(
    work: AttentionWorkload,
) -> Callable[[list[TensorValue], Quant | None, Quant | None, bool], TensorValue]:
    """A rule as `weightless.rule` gives it. Rounding weights to bytes passes gradients on as if it did nothing."""
    places = (work.q, work.k, work.v)
    numbers = [np.arange(math.prod(shape)).reshape(shape) for shape in work.sources]
    cells = [torch.from_numpy(np.ascontiguousarray(x)) for x in operand_views(work, list(numbers))]

    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        q, k, v = (_view(inputs[place[0]], cell, work, place[0]) for place, cell in zip(places, cells, strict=True))
        quants = [inputs[place[0]].quant for place in places]
        if any(quant is None for quant in quants):
            return TensorValue(_merged(torch.softmax(work.scale * (q @ k.transpose(-1, -2)), -1) @ v))
        steps = [quant.step for quant in quants if quant is not None]
        factor = multiplier(*steps[:2], torch.tensor(work.scale * math.log2(math.e), dtype=torch.float64), output=None)
        scores = q.double() @ k.double().transpose(-1, -2)
        smooth = _MOST * torch.exp2((scores - scores.amax(-1, keepdim=True)).float() * factor)
        rounded = weight_bytes(scores.detach().numpy().astype(np.int32), factor.detach().numpy())
        weights = replaced(smooth, torch.from_numpy(rounded.astype(np.float32)))
        share = multiplier(steps[2], output=output) / weights.sum(-1, keepdim=True)
        sums = (weights.double() @ v.double()).float()
        return finished(_merged(sums * share), "none", output, None)

    return run


def _view(x: TensorValue, cells: Tensor, work: AttentionWorkload, source: int) -> Tensor:
    """[samples, batch, head, row, feature]."""
    return x.data.reshape(-1, math.prod(work.sources[source]))[:, cells]


def _merged(y: Tensor) -> Tensor:
    """[samples, batch, head, query, feature] as attention leaves it: [samples * batch, query, head * feature]."""
    return y.movedim(2, 3).flatten(3).flatten(0, 1)
