"""Gates over bits that are learned: Bayesian Bits (van Baalen et al. 2020, arXiv 2005.07093) for any set of bits.

A value is quantized at the fewest bits, and every gate adds what the next bits change, as long as those before it do:

    x_q = Q_1(x) + z_2 * (Q_2(x) - Q_1(x) + z_3 * (Q_3(x) - Q_2(x) + ...))

In the paper Q are nested grids whose bits double; here they are those that the kernels compute with at each number of
bits, so that gates of 0 and 1 leave exactly one of them. A gate is a hard concrete variable (Louizos et al. 2018, arXiv
1712.01312): a stretched sigmoid of logistic noise, clamped to [0, 1], which is 0 and 1 with probabilities above 0 and
between them passes gradients on to its logit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

GAMMA, ZETA = -0.1, 1.1
"""What the sigmoid is stretched to before it is clamped, as in both papers."""

TEMPERATURE = 2 / 3
"""Of the sigmoid, as in both papers."""

CLOSED_ABOVE = 0.34
"""Probability of being 0 from which a gate is read as closed, as in Bayesian Bits."""

START = 2.0
"""Logit at first: open, and not so far that no gradient passes."""

_LEAST = 1e-6  # uniform noise stays that far from 0 and 1, whose logits are infinite


class BitGates(nn.Module):
    """The bits of one tensor. bits: distinct; `logits` float32[len(bits) - 1], one a gate, are its parameter.

    Attributes
    ----------
    bits : ascending
    """

    def __init__(self, bits: Iterable[int]) -> None:
        super().__init__()
        self.bits = tuple(sorted(bits))
        self.logits = nn.Parameter(torch.full((len(self.bits) - 1,), START))

    def drawn(self, generator: torch.Generator) -> Tensor:
        """float32[len(bits)]: the share that each number of bits has in the value, for gates drawn anew."""
        noise = torch.rand(len(self.logits), generator=generator)
        return shares(hard_concrete(self.logits, noise))

    def probabilities(self) -> Tensor:
        """float32[len(bits)]: that each is the highest whose gates are not 0, which the regulariser pays for."""
        return shares(opening(self.logits))

    @torch.no_grad()
    def chosen(self) -> int:
        """The bits behind the last gate that is open together with all before it."""
        is_open = 1 - opening(self.logits) < CLOSED_ABOVE
        return self.bits[int(is_open.int().cumprod(0).sum())]


def hard_concrete(logits: Tensor, noise: Tensor) -> Tensor:
    """Gates in [0, 1], shape of `logits`; noise: uniform on (0, 1), of the same shape."""
    noise = noise.clamp(_LEAST, 1 - _LEAST)
    stretched = torch.sigmoid((torch.logit(noise) + logits) / TEMPERATURE) * (ZETA - GAMMA) + GAMMA
    return stretched.clamp(0, 1)


def opening(logits: Tensor) -> Tensor:
    """The probability that a gate is not 0."""
    return torch.sigmoid(logits - TEMPERATURE * math.log(-GAMMA / ZETA))


def shares(gates: Tensor) -> Tensor:
    """float[n + 1] that add up to 1, of n gates: how far each level stays the last one."""
    levels = torch.cat([gates.new_ones(1), gates.cumprod(0)])
    return levels - torch.cat([levels[1:], gates.new_zeros(1)])
