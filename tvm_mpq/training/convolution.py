"""Convolutions and linear layers with weights that are trained as floats and used as integers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import unsigned_range, weight_range, weight_scale
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.conv import BIAS_LIMIT
from tvm_mpq.numerics.float16 import LARGEST
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.weight_codes import QuantizedWeight
from tvm_mpq.schema import Conv2dWorkload, DType, Precision
from tvm_mpq.training import activations
from tvm_mpq.training.arithmetic import finished, multiplier, scaled, unit
from tvm_mpq.training.straight_through import replaced, round_clamp, scaled_gradient, sign
from tvm_mpq.training.values import Quant, TensorValue

_EXACT_BELOW = 2.0**24
"""Whole numbers up to here are float32, so that sums within it are exact in any order."""

_ROUNDS_TO_CODE = 0.25
"""How far, in steps, a weight may lie from the code that was chosen for it when training starts: half of the way to the
next one. Rounding to results leaves many float weights beyond their code's edge; one update would flip those."""

_FROM_ZERO = 1e-3
"""How far, in steps, a weight of one bit lies from zero at least, so that its sign is that of its code."""


@dataclass(frozen=True)
class IntegerWeight:
    """codes float32[O, KH, KW, I / groups] (whole numbers), step float32[O], bias float32[O] in accumulator units."""

    codes: Tensor
    step: Tensor
    bias: Tensor


class Convolution(nn.Module):
    """One weighted operator. weight float32[O, KH, KW, I / groups] and bias float32[O] are its parameters.

    Integer operators have a third, the logarithm of each channel's step size over its first one; its gradient is
    scaled as that of `values.LearnedRange`, a channel's weights being what it is shared by.
    """

    def __init__(self, work: Conv2dWorkload, precision: Precision, operands: Operands, *, linear: bool) -> None:
        super().__init__()
        if operands.weight is None:
            raise InvalidValueError("conv2d needs a weight (got none)")
        self.work, self.precision, self.linear = work, precision, linear
        weight, codes = operands.weight, operands.codes
        self.bits = precision.weight_bits if operands.weight_bits is None else operands.weight_bits
        self._own = np.zeros(len(weight), np.float32) if operands.bias is None else operands.bias
        self.weight = nn.Parameter(torch.from_numpy(np.array(weight, np.float32)))
        self.bias = nn.Parameter(torch.from_numpy(np.array(self._own, np.float32)))
        if not precision.is_float:
            high, count = weight_range(self.bits)[1], math.prod(weight.shape[1:])
            self._gradient_factor = 1 / math.sqrt(max(1, count) * high)
            scale = weight_scale(weight, self.bits) if codes is None else codes.scales
            self.register_buffer("initial_step", torch.from_numpy(np.array(scale, np.float32)))
            self.log_ratio = nn.Parameter(torch.zeros(len(weight)))
            if codes is not None:
                self.start_from(weight, codes)

    @torch.no_grad()
    def start_from(self, weight: FloatArray, codes: QuantizedWeight) -> None:
        """Take these codes, scales and biases, by the values next to `weight` that round to them."""
        self.weight.copy_(torch.from_numpy(_near(weight, codes)))
        self.bias.copy_(torch.from_numpy(np.array(self._own if codes.bias is None else codes.bias)))
        self.initial_step.copy_(torch.from_numpy(np.array(codes.scales)))
        self.log_ratio.zero_()

    def integers(self, x: Quant) -> IntegerWeight:
        """The weight as the kernel for an input of these steps gets it."""
        step = self.initial_step * scaled_gradient(self.log_ratio, self._gradient_factor).exp()
        # No step below what fits the bias into 30 bits, by the arithmetic of `numerics.conv.least_scale`.
        least = self.bias.detach().double().abs() / (x.step.detach().double() * BIAS_LIMIT)
        step = torch.maximum(step, least.clamp(max=float(np.finfo(np.float32).max)).float())
        steps = self.weight / step.reshape(-1, 1, 1, 1)
        low, high = weight_range(self.bits)
        codes = sign(steps) if self.bits == 1 else round_clamp(steps, low, high)
        bias = self.bias.double() / (x.step.double() * step.double())
        return IntegerWeight(codes, step, round_clamp(bias, -BIAS_LIMIT, BIAS_LIMIT))

    def quantized_weight(self, x: Quant) -> QuantizedWeight:
        """Codes, scales and bias as they are now, for an input of these steps."""
        with torch.no_grad():
            found = self.integers(x)
        codes, bias = found.codes.numpy().astype(np.int8), self.bias.detach().numpy().copy()
        return QuantizedWeight(codes, found.step.numpy().copy(), self.bits, bias)

    def forward(
        self, inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool
    ) -> TensorValue:
        """inputs: data, then a residual. exact: sums are exact however long they are, at any cost."""
        data, *residual = inputs
        if self.precision.is_float:
            return TensorValue(self._float(data.real, [r.real for r in residual]))
        assert data.quant is not None, "an integer operator reads integers"
        weight = self.integers(data.quant)
        acc = self._sums(data, weight, exact)
        goal = unit(self.work.activation, output, before)
        factor = multiplier(data.quant.step, weight.step, output=goal)
        if not residual:
            y = scaled(acc, factor, None, None, exact)
        else:
            (other,) = residual
            assert other.quant is not None, "an integer operator adds integers"
            y = scaled(acc, factor, other.data.reshape(acc.shape), multiplier(other.quant.step, output=goal), exact)
        return finished(y, self.work.activation, output, before)

    def _float(self, x: Tensor, residual: list[Tensor]) -> Tensor:
        weight = self.weight
        if self.precision.dtype is DType.BF16:
            x, weight = (replaced(v, v.detach().bfloat16().float()) for v in (x, weight))
        if self.precision.dtype is DType.FP16:  # sums in halves round far less than that, as noise
            x, weight = (replaced(v, v.detach().clamp(-LARGEST, LARGEST).half().float()) for v in (x, weight))
        return self.in_floats(x, weight, residual)

    def in_floats(self, x: Tensor, weight: Tensor, residual: list[Tensor]) -> Tensor:
        """The operator of float32 values with another weight of its shape; unquantized."""
        y = self._convolve(x, weight, self.bias)
        for other in residual:
            y = y + other.reshape(y.shape)
        return activations.apply(self.work.activation, y)

    def _sums(self, x: TensorValue, weight: IntegerWeight, exact: bool) -> Tensor:
        """float32 of the whole numbers that the kernels accumulate."""
        if exact and self._longest(x, weight) >= _EXACT_BELOW:
            return self._convolve(x.data.double(), weight.codes.double(), weight.bias).float()
        return self._convolve(x.data, weight.codes, weight.bias.float())

    def _longest(self, x: TensorValue, weight: IntegerWeight) -> float:
        """A bound of what any part of a sum can be."""
        assert x.quant is not None
        reach = max(-x.quant.low, x.quant.high, unsigned_range(x.quant.bits)[0])
        products = weight.codes.detach().abs().sum(dim=(1, 2, 3), dtype=torch.float64) * reach
        return float((products + weight.bias.detach().abs()).max())

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[..., O] of x [..., I], channels last, any batch."""
        work = self.work
        if self.linear:
            return functional.linear(x, weight.reshape(len(weight), -1), bias)
        data = x.reshape(-1, work.in_height, work.in_width, work.in_channels)
        if _reads_points(work):  # several times as fast as the same convolution
            points = data[:, :: work.stride[0], :: work.stride[1]]
            return functional.linear(points, weight.reshape(len(weight), -1), bias)
        data = data.permute(0, 3, 1, 2)
        if work.input_dilation != (1, 1):
            wide = data.new_zeros(*data.shape[:2], work.dilated_height, work.dilated_width)
            wide[:, :, :: work.input_dilation[0], :: work.input_dilation[1]] = data
            data = wide
        top, left, bottom, right = work.padding
        padding = (top, left)
        if (top, left) != (bottom, right) or min(work.padding) < 0:
            data = functional.pad(data, (left, right, top, bottom))
            padding = (0, 0)
        y = functional.conv2d(data, weight.permute(0, 3, 1, 2), bias, work.stride, padding, work.dilation, work.groups)
        return y.permute(0, 2, 3, 1)


def _reads_points(work: Conv2dWorkload) -> bool:
    """Whether each output position reads one input position, so that the operator is a matrix product."""
    plain = work.kernel == (1, 1) and work.groups == 1 and work.input_dilation == (1, 1)
    return plain and not any(work.padding)


def _near(weight: FloatArray, given: QuantizedWeight) -> FloatArray:
    """The float weight, moved as little as brings it into the middle half of what rounds to the given codes."""
    scale = given.scales.reshape(-1, 1, 1, 1).astype(np.float64)
    steps, codes = weight / scale, given.codes.astype(np.float64)
    low, high = weight_range(given.bits)
    if given.bits == 1:
        steps = np.where(codes < 0, np.minimum(steps, -_FROM_ZERO), np.maximum(steps, _FROM_ZERO))
    else:
        least = np.where(given.codes == low, -np.inf, codes - _ROUNDS_TO_CODE)
        most = np.where(given.codes == high, np.inf, codes + _ROUNDS_TO_CODE)
        steps = np.clip(steps, least, most)
    return (steps * scale).astype(np.float32)
