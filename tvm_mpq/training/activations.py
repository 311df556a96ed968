"""Activations in PyTorch: smooth for gradients, and by the tables of `numerics` where integers must be the kernels'."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tvm_mpq.numerics import activations
from tvm_mpq.training.straight_through import replaced, round_clamp
from tvm_mpq.training.values import Quant, TensorValue

_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_swish": functional.hardswish,
    "hard_sigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
}


def apply(name: str, x: Tensor) -> Tensor:
    """The activation of float32 values."""
    base, numbers = activations.parse(name)
    if base == "none":
        return x
    if base == "relu":
        return functional.relu(x)
    if base == "clip":
        return x.clamp(*numbers)
    if base == "leaky_relu":
        return functional.leaky_relu(x, numbers[0])
    return _CURVES[base](x)


def by_table(name: str, x: TensorValue, output: Quant) -> TensorValue:
    """The activation of integers as kernels look it up: `numerics.activations.table`, the curve's gradient."""
    assert x.quant is not None, "tables are for integers"
    smooth = round_clamp(apply(name, x.real) / output.step, output.low, output.high)
    table = activations.table(name, x.quant.tensor_quant, output.tensor_quant)
    steps = torch.from_numpy(table).to(smooth.dtype) - output.zero_point
    index = (x.data.detach() + x.quant.zero_point).long()
    return TensorValue(replaced(smooth, steps[index]), output)
