"""The learned step size: LSQ's gradient, and that it starts where the plan has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tvm_mpq.numerics.affine import dequantize, quantize, tensor_quant
from tvm_mpq.schema import TensorQuant
from tvm_mpq.training.arithmetic import finished, quantized
from tvm_mpq.training.straight_through import round_clamp, sign
from tvm_mpq.training.values import LearnedRange

VALUES = [-9.0, -1.3, -0.2, 0.0, 0.4, 0.5, 1.5, 3.6, 40.0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_are_those_of_the_definition(bits: int) -> None:
    given = tensor_quant(-1.0, 3.0, bits)
    found = quantized(torch.tensor(VALUES), LearnedRange(given, 7).quant())
    q = quantize(np.float32(VALUES), given)
    np.testing.assert_array_equal(found.data.detach().numpy() + given.zero_point, q)
    np.testing.assert_array_equal(found.real.detach().numpy(), dequantize(q, given))


def test_the_gradient_is_that_of_lsq() -> None:
    """d real / d step: round(x / s) - x / s inside, the end's integer outside (equation 3 of arXiv 1902.08153)."""
    step, zero_point, features = 0.7, 3, 11
    learned = LearnedRange(TensorQuant(3, float(np.float32(step)), zero_point), features)
    for x in VALUES:
        learned.zero_grad()
        data = torch.tensor([x], requires_grad=True)
        quantized(data, learned.quant()).real.sum().backward()
        steps = x / step
        inside = -zero_point <= steps <= 7 - zero_point
        by_step = round(steps) - steps if inside else (-zero_point if steps < 0 else 7 - zero_point)
        wanted = by_step * step / math.sqrt(features * 7)
        assert learned.log_ratio.grad is not None and data.grad is not None
        assert float(learned.log_ratio.grad) == pytest.approx(wanted, rel=1e-5, abs=1e-6), x
        assert float(data.grad) == pytest.approx(float(inside), rel=1e-6), x


def test_a_clip_keeps_its_real_value() -> None:
    """Where clip cuts off, a larger step means fewer steps: nothing but the bound's rounding is left."""
    learned = LearnedRange(TensorQuant(8, 0.05, 10), 1)
    output = learned.quant()
    value = finished(torch.tensor([400.0, -3.0]), "clip:0.0:6.0", output, None)
    np.testing.assert_array_equal(value.data.detach().numpy(), [120.0, 0.0])
    value.real.sum().backward()
    assert learned.log_ratio.grad is not None and abs(float(learned.log_ratio.grad)) < 0.05


def test_gradients_stop_outside() -> None:
    y = torch.tensor([-2.6, -0.5, 0.5, 1.5, 2.5], requires_grad=True)
    q = round_clamp(y, -2.0, 2.0)
    assert q.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]  # half to even
    q.sum().backward()
    assert y.grad is not None and y.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_sign_is_never_zero() -> None:
    y = torch.tensor([-2.0, -0.5, -0.0, 0.0, 0.5, 2.0], requires_grad=True)
    s = sign(y)
    assert s.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    s.sum().backward()
    assert y.grad is not None and y.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
