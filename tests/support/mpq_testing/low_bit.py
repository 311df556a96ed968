"""Operands for convolutions of few bits: random ones, and those whose sums are the greatest."""

from __future__ import annotations

import numpy as np

from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload, TensorQuant


def make_operands(
    w: Conv2dWorkload, bits: int, out_bits: int, rng: np.random.Generator, extreme: int | None
) -> Operands:
    """`extreme`: None for random weights and zero points, else the sign of all weights and the end of the range."""
    top = 2**bits - 1
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels)).astype(np.float32)
    zero_point = int(rng.integers(0, top + 1))
    if extreme is not None:
        weight, zero_point = np.full_like(weight, extreme), 0 if extreme > 0 else top
    spread = (w.kernel[0] * w.kernel[1] * w.in_channels) ** (0.5 if extreme is None else 1.0)

    def quant(scale: float, zero_point: int, bits: int = 8) -> TensorQuant:
        return TensorQuant(bits, float(np.float32(scale)), zero_point)

    inputs = (quant(0.03, zero_point, bits), *([quant(0.05, 131)] if w.residual else []))
    output = None if out_bits == 32 else quant(0.004 * spread, 120)
    pre = None if is_clamp(w.activation) else quant(0.005 * spread, 100)
    return Operands(inputs, output, weight, rng.standard_normal(w.out_channels).astype(np.float32), pre)
