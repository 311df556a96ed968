"""From sums of steps to an operator's output, as `numerics.requantize` and `numerics.constants` define it.

What is written `exact` gives every rounding of the kernels. Without it a residual is added with two float32 roundings
in the place of one, which is faster and may move an output by a step where it lay within a rounding of a tie.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.activation_names import clamp_bounds, is_clamp
from tvm_mpq.training import activations
from tvm_mpq.training.straight_through import replaced, round_clamp
from tvm_mpq.training.values import Quant, TensorValue


def multiplier(*steps: Tensor, output: Quant | None) -> Tensor:
    """float32 product of step sizes over the output's, computed in float64 and rounded once."""
    product = steps[0].double()
    for step in steps[1:]:
        product = product * step.double()
    return (product if output is None else product / output.step.double()).float()


def scaled(acc: Tensor, factor: Tensor, residual: Tensor | None, residual_factor: Tensor | None, exact: bool) -> Tensor:
    """acc * factor [+ residual * residual_factor], float32; exact: the sum is rounded once.

    Parameters
    ----------
    acc : float32[..., C]
        Whole numbers.
    factor : float32[C] or float32[]
    residual : float32[..., C] or None
        Whole numbers, zero point already subtracted.
    residual_factor : float32[] or None
    """
    if residual is None:
        return acc * factor
    assert residual_factor is not None, "a residual needs its factor"
    term = residual * residual_factor
    y = torch.addcmul(term, acc, factor)
    return replaced(y, _fma(acc.detach(), factor.detach(), term.detach())) if exact else y


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """float32 a * b + c with one rounding; the way is that of `numerics.fma`."""
    product, term = a.double() * b.double(), c.double()
    total = product + term
    back = total - product
    error = (product - (total - back)) + (term - back)
    even = (total.view(torch.int64) & 1) == 0
    inexact = torch.isfinite(total) & (error != 0)
    odd = torch.nextafter(total, torch.where(error > 0, math.inf, -math.inf).to(total.dtype))
    return torch.where(inexact & even, odd, total).float()


def unit(activation: str, output: Quant | None, before: Quant | None) -> Quant | None:
    """In whose steps an operator leaves its value: the output's, those before a table, or real units (None)."""
    if is_clamp(activation):
        return output
    if output is None or before is None:
        raise InvalidValueError(f"activation {activation!r} of integers needs ranges before and behind it (got none)")
    return before


def finished(y: Tensor, activation: str, output: Quant | None, before: Quant | None) -> TensorValue:
    """Rounded and clamped steps of the output, or real values where it is float.

    y : float32[..., C] in the units that `unit` names.
    """
    if not is_clamp(activation):
        assert before is not None and output is not None, "`unit` has seen to it"
        return activations.by_table(activation, TensorValue(round_clamp(y, before.low, before.high), before), output)
    bounds = clamp_bounds(activation)
    if output is None:
        return TensorValue(y if activation == "none" else y.clamp(*bounds))
    low, high = (_bound(value, output) for value in bounds)
    return TensorValue(round_clamp(y, low, high), output)


def _bound(value: float, output: Quant) -> Tensor | float:
    """A clamp's bound in steps of the output; it moves with the step size, so that its real value stays."""
    if not math.isfinite(value):
        return output.low if value < 0 else output.high
    if value == 0:
        return 0.0
    return round_clamp(value / output.step, output.low, output.high)


def quantized(real: Tensor, output: Quant) -> TensorValue:
    """Float values in steps of the output."""
    return TensorValue(round_clamp(real / output.step, output.low, output.high), output)
