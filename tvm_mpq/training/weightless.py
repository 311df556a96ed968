"""Operators without weights, on integers and floats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.numerics.constants import pool_counts
from tvm_mpq.schema import (
    ActivationWorkload,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    ConvertWorkload,
    CopyWorkload,
    MultiplyWorkload,
    Pool2dWorkload,
    Workload,
)
from tvm_mpq.training import activations
from tvm_mpq.training.arithmetic import finished, multiplier, quantized, scaled, unit
from tvm_mpq.training.attention import attention_rule
from tvm_mpq.training.values import Quant, TensorValue

Rule = Callable[[list[TensorValue], "Quant | None", "Quant | None", bool], TensorValue]
"""inputs, the output's quantization, the one before its activation, exact -> output; None is float."""


def rule(work: Workload, node: str) -> Rule:
    """What computes a workload. Raises UnsupportedModelError for one that nothing here covers."""
    for kind, make in _RULES.items():
        if isinstance(work, kind):
            return make(work)
    known = ", ".join(kind.kind for kind in _RULES)
    raise UnsupportedModelError(f"operator {node!r} is {work.kind}; what can be trained is conv2d, linear, {known}")


def _pool(work: Pool2dWorkload) -> Rule:
    counts = torch.from_numpy(pool_counts(work)).to(torch.float64).unsqueeze(-1)  # [OH, OW, 1]

    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        (x,) = inputs
        least = -torch.inf if x.quant is None else x.quant.low
        data = _padded(x.data, work, least if work.mode == "max" else 0)
        if work.mode == "max":
            return TensorValue(_positions(functional.max_pool2d(data, work.kernel, work.stride), work), x.quant)
        sums = _positions(functional.avg_pool2d(data, work.kernel, work.stride, divisor_override=1), work)
        if x.quant is None:
            return TensorValue(sums / counts.clamp(min=1).float())
        real = x.quant.step.double() / ((1.0 if output is None else output.step.double()) * counts.clamp(min=1))
        return finished(scaled(sums, (real * (counts > 0)).float(), None, None, exact), "none", output, None)

    return run


def _padded(x: Tensor, work: Pool2dWorkload, fill: float) -> Tensor:
    """[N, C, H, W] with as much `fill` as the windows reach past the map."""
    data = x.reshape(-1, work.in_height, work.in_width, work.channels).permute(0, 3, 1, 2)
    amounts: list[int] = []
    for axis, outs, size in ((1, work.out_width, work.in_width), (0, work.out_height, work.in_height)):
        before = work.padding[axis]
        reach = (outs - 1) * work.stride[axis] + work.kernel[axis] - before
        amounts += [before, max(reach - size, 0)]
    return functional.pad(data, amounts, value=fill) if any(amounts) else data


def _positions(y: Tensor, work: Pool2dWorkload) -> Tensor:
    """[N, OH, OW, C] of windows that may be more than are wanted."""
    return y[:, :, : work.out_height, : work.out_width].permute(0, 2, 3, 1)


def _add(work: AddWorkload) -> Rule:
    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        a, b = inputs
        if a.quant is None or b.quant is None:
            return TensorValue(activations.apply(work.activation, a.real + b.real))
        goal = unit(work.activation, output, before)
        factors = [multiplier(q.step, output=goal) for q in (a.quant, b.quant)]
        y = scaled(a.data, factors[0], b.data, factors[1], exact)
        return finished(y, work.activation, output, before)

    return run


def _multiply(work: MultiplyWorkload) -> Rule:
    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        a, b = inputs
        if a.quant is None or b.quant is None:
            return TensorValue(activations.apply(work.activation, a.real * b.real))
        goal = unit(work.activation, output, before)
        factor = multiplier(a.quant.step, b.quant.step, output=goal)
        return finished(scaled(a.data * b.data, factor, None, None, exact), work.activation, output, before)

    return run


def _concat(work: ConcatWorkload) -> Rule:
    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        parts = []
        for x in inputs:
            if x.quant is None:
                parts.append(x.data)
                continue
            y = scaled(x.data, multiplier(x.quant.step, output=output), None, None, exact)
            parts.append(finished(y, "none", output, None).data)
        return TensorValue(torch.cat(parts, dim=-1), output)

    return run


def _activation(work: ActivationWorkload) -> Rule:
    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        (x,) = inputs
        if x.quant is None:
            return TensorValue(activations.apply(work.activation, x.data))
        assert output is not None, "an integer activation gives integers"
        return activations.by_table(work.activation, x, output)

    return run


def _copy(work: CopyWorkload) -> Rule:
    batch = (work.begin[0], work.stride[0], work.pad_before[0], work.count[0], work.out_shape[0])
    if batch != (0, 1, 0, work.in_shape[0], work.in_shape[0]):
        raise UnsupportedModelError(f"{work.key} cuts or pads the batch axis; a network that is trained must not")

    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        (x,) = inputs
        data = x.data.reshape(-1, *work.in_shape[1:])
        amounts: list[int] = []
        for axis in range(1, len(work.in_shape)):
            begin, stride, count = work.begin[axis], work.stride[axis], work.count[axis]
            data = data.narrow(axis, begin, (count - 1) * stride + 1) if count else data.narrow(axis, 0, 0)
            data = data[(slice(None),) * axis + (slice(None, None, stride),)]
            amounts = [work.pad_before[axis], work.out_shape[axis] - work.pad_before[axis] - count, *amounts]
        return TensorValue(functional.pad(data, amounts), x.quant)

    return run


def _convert(work: ConvertWorkload) -> Rule:
    def run(inputs: list[TensorValue], output: Quant | None, before: Quant | None, exact: bool) -> TensorValue:
        (x,) = inputs
        data = x.real
        if work.channels_first:
            data = data.movedim(1, -1) if x.quant is None else data.movedim(-1, 1)
        return TensorValue(data) if output is None else quantized(data, output)

    return run


_RULES: dict[type[Workload], Callable[..., Rule]] = {
    Pool2dWorkload: _pool,
    AddWorkload: _add,
    MultiplyWorkload: _multiply,
    ConcatWorkload: _concat,
    ActivationWorkload: _activation,
    CopyWorkload: _copy,
    AttentionWorkload: attention_rule,
    ConvertWorkload: _convert,
}
