"""What flows through a network in PyTorch: tensors as integer steps of a learned size, or as floats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.schema import TensorQuant
from tvm_mpq.training.straight_through import scaled_gradient


@dataclass(frozen=True)
class Quant:
    """The quantization of a tensor during one run; step: float32[], real units per integer step."""

    bits: int
    zero_point: int
    step: Tensor

    @property
    def low(self) -> int:
        """The least number of steps from the zero point."""
        return -self.zero_point

    @property
    def high(self) -> int:
        """The greatest number of steps from the zero point."""
        return unsigned_range(self.bits)[1] - self.zero_point

    @property
    def tensor_quant(self) -> TensorQuant:
        """As plans have it."""
        return TensorQuant(self.bits, float(self.step.detach()), self.zero_point)


@dataclass(frozen=True)
class TensorValue:
    """One tensor of a run, logical shape with any batch in axis 0.

    data: float32; whole numbers, q - zero_point, where `quant` is given, else real values.
    """

    data: Tensor
    quant: Quant | None = None

    @property
    def real(self) -> Tensor:
        """(q - zero_point) * scale, rounded to float32 once."""
        return self.data if self.quant is None else self.data * self.quant.step

    def reshaped(self, *shape: int) -> TensorValue:
        return TensorValue(self.data.reshape(shape), self.quant)


class LearnedRange(nn.Module):
    """The step size of a tensor in one format: initial * exp(log_ratio). Its zero point stays.

    Its gradient is divided by sqrt(values in one sample * 2^bits - 1), as in LSQ (Esser et al. 2020, arXiv 1902.08153,
    section 2.2). Learning the logarithm keeps steps positive, and one learning rate fits tensors of any size.
    """

    def __init__(self, initial: TensorQuant, values: int) -> None:
        super().__init__()
        self.bits, self.zero_point = initial.bits, initial.zero_point
        self.log_ratio = nn.Parameter(torch.zeros(()))
        self._initial = initial.scale
        self._gradient_factor = 1 / math.sqrt(max(1, values) * unsigned_range(initial.bits)[1])

    def quant(self) -> Quant:
        """With today's step, which gradients reach."""
        step = scaled_gradient(self.log_ratio, self._gradient_factor).exp() * self._initial
        return Quant(self.bits, self.zero_point, step)
