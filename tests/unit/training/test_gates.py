"""Gates over bits: their gradients against finite differences, and what 0 and 1 leave of a value."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tvm_mpq.training.gates import BitGates, hard_concrete, opening, shares

POINTS = 40_001
"""Of the noise's quadrature, off by less than 4 / POINTS: clamping makes the integrand's slope jump twice."""


def expected_gate(logits: Tensor) -> Tensor:
    """float64[n]: the mean of each gate over its noise."""
    noise = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    return hard_concrete(logits[:, None], noise.expand(len(logits), -1)).mean(dim=1)


def expected_output(logits: Tensor, values: Tensor) -> Tensor:
    """float64[...]: the mean of a gated value. Gates are independent, so that means of products are their products."""
    return torch.tensordot(shares(expected_gate(logits)), values, dims=1)


@pytest.mark.parametrize("logits", [(2.0, 2.0), (0.3, -1.5), (-3.0, 4.0), (0.0, 0.0)])
def test_the_gradient_of_the_expected_output(logits: tuple[float, float]) -> None:
    """What backward gives through the draws is how the mean moves with each logit."""
    at = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    values = torch.tensor([[1.0, -2.0], [0.4, -1.1], [0.55, 3.0]], dtype=torch.float64)
    for k in range(2):
        (found,) = torch.autograd.grad(expected_output(at, values)[k], at)
        step = 1e-3
        for gate in range(2):
            moved = torch.zeros(2, dtype=torch.float64)
            moved[gate] = step
            up, down = (expected_output(at.detach() + sign * moved, values)[k] for sign in (1, -1))
            wanted = (up - down) / (2 * step)
            assert float(found[gate]) == pytest.approx(float(wanted), abs=2e-3 * (1 + abs(float(wanted))))
    assert float(torch.autograd.grad(expected_output(at, values)[0], at)[0].abs().max()) > 1e-3  # there is something


def test_gradients_of_shares_and_probabilities() -> None:
    gates = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(shares, (gates,))
    assert torch.autograd.gradcheck(lambda logits: shares(opening(logits)), (4 * gates - 2,))


def test_gates_of_0_and_1_leave_one_number_of_bits() -> None:
    for pattern in itertools.product((0.0, 1.0), repeat=3):
        found = shares(torch.tensor(pattern)).tolist()
        last = pattern.index(0.0) if 0.0 in pattern else 3
        assert found == [float(i == last) for i in range(4)]


def test_draws_are_closed_as_often_as_is_paid_for() -> None:
    """The probability that the regulariser takes is that of the draws; 20,000 of them scatter by 0.0035 at most."""
    generator = torch.Generator().manual_seed(1)
    for logit in (-2.0, 0.0, 1.5):
        drawn = hard_concrete(torch.full((20_000,), logit), torch.rand(20_000, generator=generator))
        assert float((drawn > 0).float().mean()) == pytest.approx(float(opening(torch.tensor(logit))), abs=0.015)
        assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1


def test_which_bits_are_chosen() -> None:
    gates = BitGates([8, 2, 4])
    assert gates.bits == (2, 4, 8) and gates.chosen() == 8
    edge = math.log(0.66 / 0.34) - 2 / 3 * math.log(11)  # where the probability of 0 is 0.34
    for logits, bits in (((edge + 0.01, edge - 0.01), 4), ((edge - 0.01, 9.0), 2), ((9.0, edge + 0.01), 8)):
        gates.logits.data = torch.tensor(logits)
        assert gates.chosen() == bits
    assert BitGates([8]).chosen() == 8 and BitGates([8]).probabilities().tolist() == [1.0]
