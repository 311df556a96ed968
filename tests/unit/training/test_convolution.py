"""Integer convolutions whose sums float32 does not hold, against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvm_mpq.numerics.float16 import sum_bound
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP16, FP32, Conv2dWorkload, Precision, TensorQuant
from tvm_mpq.training.convolution import Convolution
from tvm_mpq.training.values import LearnedRange, Quant, TensorValue

IN, OUT, RESIDUAL = TensorQuant(8, 0.0126953125, 4), TensorQuant(8, 310.0, 100), TensorQuant(8, 77.0, 31)


def quant(tq: TensorQuant) -> Quant:
    return LearnedRange(tq, 1).quant()


@pytest.mark.parametrize("large_bias", [False, True])
@pytest.mark.parametrize("out_bits", [8, 32])
@pytest.mark.parametrize("residual", [False, True])
def test_long_sums_are_exact(rng: np.random.Generator, residual: bool, out_bits: int, large_bias: bool) -> None:
    work = Conv2dWorkload(1, 6, 7, 128, 16, (5, 5), padding=(1, 0, 2, 3), residual=residual, activation="relu")
    precision = Precision(8, 8)
    weight = rng.uniform(50, 100, (16, 5, 5, 128)).astype(np.float32)
    bias = rng.normal(0, 1e8 if large_bias else 1, 16).astype(np.float32)
    operands = Operands((IN, RESIDUAL) if residual else (IN,), OUT if out_bits == 8 else None, weight, bias)
    x = rng.integers(200, 256, (1, 6, 7, 128)).astype(np.uint8)
    other = rng.integers(0, 256, (1, work.out_height, work.out_width, 16)).astype(np.uint8)
    arrays = [x, other] if residual else [x]
    wanted = evaluate(work, precision, out_bits, operands, arrays)
    made = Convolution(work, precision, operands, linear=False)
    values = [
        TensorValue(torch.from_numpy(a.astype(np.float32) - q.zero_point), quant(q))
        for a, q in zip(arrays, (IN, RESIDUAL), strict=False)
    ]
    with torch.no_grad():
        found = made(values, quant(OUT) if out_bits == 8 else None, None, True)
        fast = made(values, quant(OUT) if out_bits == 8 else None, None, False)
    assert 127 * 5 * 5 * 128 * 200 > 2**24
    shift = 0 if out_bits == 32 else OUT.zero_point
    np.testing.assert_array_equal(found.data.numpy() + shift, wanted)
    np.testing.assert_allclose(fast.data.numpy() + shift, wanted, rtol=1e-5, atol=0 if out_bits == 32 else 1)


def test_a_channel_of_zeros_keeps_its_bias(rng: np.random.Generator) -> None:
    """Its step is raised to what its bias needs, as `numerics.conv.least_scale` says."""
    work = Conv2dWorkload(1, 1, 5, 8, 3, (1, 1))
    weight = rng.normal(0, 1, (3, 1, 1, 8)).astype(np.float32)
    weight[1] = 0
    operands = Operands((IN,), TensorQuant(8, 0.125, 100), weight, np.float32([0.5, 7.5, -2.0]))
    x = rng.integers(0, 256, (1, 1, 5, 8)).astype(np.uint8)
    for precision in (Precision(4, 8), Precision(1, 8)):
        made = Convolution(work, precision, operands, linear=True)
        with torch.no_grad():
            value = TensorValue(torch.from_numpy(x.astype(np.float32) - IN.zero_point), quant(IN))
            found = made([value], quant(TensorQuant(8, 0.125, 100)), None, True)
        wanted = evaluate(work, precision, 8, operands, [x])
        np.testing.assert_array_equal(found.data.numpy() + 100, wanted)


def test_operands_of_halves_are_rounded_and_saturate(rng: np.random.Generator) -> None:
    """All but the roundings of sums of halves, which are smaller than what one value beyond their range does."""
    work = Conv2dWorkload(1, 5, 6, 40, 12, (3, 3), activation="relu")
    operands = Operands((None,), None, rng.normal(0, 1, (12, 3, 3, 40)).astype(np.float32), np.ones(12, np.float32))
    x = rng.normal(0, 1, (1, 5, 6, 40)).astype(np.float32)
    x[0, 2, 2, :2] = 1e5, 3e4
    found, plain = (
        Convolution(work, p, operands, linear=False)([TensorValue(torch.from_numpy(x), None)], None, None, True)
        for p in (FP16, FP32)
    )
    wanted = evaluate(work, FP16, 32, operands, [x])
    bound = sum_bound(work, x, operands.weight).max()
    np.testing.assert_allclose(found.data.detach().numpy(), wanted, rtol=0, atol=bound)
    assert abs(plain.data.detach().numpy() - wanted).max() > 4 * bound
