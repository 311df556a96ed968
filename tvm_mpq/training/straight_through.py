"""Steps of integer arithmetic whose true gradient is zero almost everywhere, with the gradient that training uses.

Rounding passes gradients on as if it were the identity; a clamp passes them on inside its bounds (Bengio et al. 2013,
arXiv 1308.3432).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RoundClamp(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, y: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(y)
        context.bounds = low, high
        return torch.round(y).clamp_(low, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (y,) = context.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, y, *context.bounds), None, None


class _RoundClampToTensors(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
        context.save_for_backward(y, low, high)
        return torch.round(y).clamp_(float(low), float(high))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, low, high = context.saved_tensors
        below, above = y < low, y > high
        inside = gradient.masked_fill(below | above, 0)
        return inside, gradient[below].sum().reshape(low.shape), gradient[above].sum().reshape(high.shape)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, y: Tensor) -> Tensor:
        context.save_for_backward(y)
        return torch.where(y < 0, -1.0, 1.0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (y,) = context.saved_tensors
        return gradient.masked_fill(y.abs() > 1, 0)


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.factor, None


def round_clamp(y: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """clamp(round_half_even(y), low, high); gradients reach y inside the bounds, and a tensor's bound where it cut off.

    Parameters
    ----------
    y : float32[...]
    low, high : float32[] or number
        low <= high.
    """
    result: Tensor
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        result = _RoundClampToTensors.apply(y, torch.as_tensor(low), torch.as_tensor(high))
    else:
        result = _RoundClamp.apply(y, low, high)
    return result


def sign(y: Tensor) -> Tensor:
    """-1 where y < 0, else +1, with the gradient of clamp(y, -1, 1)."""
    result: Tensor = _Sign.apply(y)
    return result


def replaced(value: Tensor, exact: Tensor) -> Tensor:
    """`exact` with the gradient of `value`, which has its shape."""
    result: Tensor = _Replaced.apply(value, exact)
    return result


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """`value`, whose gradient is multiplied by `factor` on the way back."""
    result: Tensor = _ScaledGradient.apply(value, factor)
    return result
