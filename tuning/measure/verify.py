"""No kernel's time counts before its numbers do: each is run on the device and compared with `numerics`.

Integers must be equal. Floats may differ by what summing in another order can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tvm_mpq.errors import VerificationError
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.schema import (
    FLOAT_BITS,
    ActivationWorkload,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    MultiplyWorkload,
    Pool2dWorkload,
    RecurrentWorkload,
    TensorQuant,
    Workload,
)
from tvm_mpq.tuning.devices.session_base import Session

FLOAT_TOLERANCE = 2e-5
"""Of the largest output: sums of up to some thousands of float32 products, and activations to a few ulp."""

_SCALE = float(np.float32(0.02))
_OUT_SCALE = float(np.float32(0.035))  # spreads outputs over the byte without clamping most of them


def verify_kernel(session: Session, path: Path, symbol: str, kernel: Kernel, seed: int = 0) -> None:
    """Run a compiled kernel once on seeded operands over their whole range.

    Raises
    ------
    VerificationError
        If it differs from the definition; the text says how much and where.
    DeviceLostError, MeasurementError
        If it crashes the device or refuses its arguments.
    """
    request = kernel.request
    rng = np.random.default_rng(seed)
    operands = example_operands(kernel, rng)
    inputs = example_inputs(kernel, rng, operands)
    expected = evaluate(request.workload, request.precision, request.out_bits, operands, inputs)
    stored = [pad_channels(x) if x.dtype == np.uint8 else x for x in inputs]
    kinds = kernel.buffers
    arguments = [*stored, *kernel.constants(operands), np.zeros(*kinds[-1])]
    tensors = [session.array(a.reshape(shape)) for a, (shape, _) in zip(arguments, kinds, strict=True)]
    module = session.upload_module(path)
    session.call(module, symbol, *tensors)
    compare(session.fetch(tensors[-1]), expected, request.key)


def compare(found: Array, expected: Array, what: str) -> None:
    """Raises VerificationError unless integers are equal and floats within FLOAT_TOLERANCE of the largest value."""
    if expected.dtype == np.uint8:
        stored = found.reshape(*expected.shape[:-1], found.shape[-1])
        wrong = int(np.count_nonzero(unpad(stored, expected.shape[-1]) != expected))
        if wrong:
            raise VerificationError(f"kernel for {what} gives {wrong} of {expected.size} integers wrong")
        return
    difference = float(np.abs(found.reshape(expected.shape) - expected).max(initial=0.0))
    allowed = FLOAT_TOLERANCE * max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    if not difference <= allowed:
        raise VerificationError(f"kernel for {what} is off by {difference:.3g} where {allowed:.3g} is allowed")


def example_operands(kernel: Kernel, rng: np.random.Generator) -> Operands:
    """Random weights, and ranges whose zero points differ."""
    request = kernel.request
    work, precision = request.workload, request.precision
    bits = precision.activation_bits

    def quant(scale: float, width: int) -> TensorQuant:
        return TensorQuant(width, scale, int(rng.integers(0, 2**width)))

    weight = bias = None
    if isinstance(work, Conv2dWorkload):
        shape = (work.out_channels, *work.kernel, work.in_channels // work.groups)
        weight = (rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
        bias = rng.standard_normal(work.out_channels).astype(np.float32)
    if isinstance(work, RecurrentWorkload):
        weight = (rng.standard_normal(work.weight_shape) / math.sqrt(work.hidden)).astype(np.float32)
        bias = rng.standard_normal(work.vectors_size).astype(np.float32)
    if isinstance(work, ConvertWorkload):
        source = None if work.from_bits == FLOAT_BITS else quant(_SCALE, work.from_bits)
        return Operands((source,), None if work.to_bits == FLOAT_BITS else quant(_OUT_SCALE, work.to_bits))
    count = len(input_shapes(work))
    if work.is_float_at(precision):
        state = None if precision.is_float else quant(1 / 127, bits)
        return Operands((None,) * count, None, weight, bias, state=state)
    inputs = (quant(_SCALE, bits), *(quant(_SCALE, 8) for _ in range(count - 1)))
    tied = isinstance(work, CopyWorkload) or (isinstance(work, Pool2dWorkload) and work.mode == "max")
    output = inputs[0] if tied else quant(_OUT_SCALE, 8)
    activation = getattr(work, "activation", "none")
    table = not is_clamp(activation) and not isinstance(work, ActivationWorkload)
    if request.out_bits == FLOAT_BITS:
        return Operands(inputs, None, weight, bias)
    return Operands(inputs, output, weight, bias, TensorQuant(8, _OUT_SCALE, 128) if table else None)


def example_inputs(kernel: Kernel, rng: np.random.Generator, operands: Operands) -> list[Array]:
    """Random arrays with both ends of every range among them, logical channels."""
    work = kernel.request.workload
    arrays: list[Array] = []
    for shape, quant in zip(input_shapes(work), operands.inputs, strict=True):
        if quant is None:
            arrays.append(rng.standard_normal(shape).astype(np.float32))
        else:
            values = rng.integers(0, 2**quant.bits, shape).astype(np.uint8)
            values.reshape(-1)[:1] = 2**quant.bits - 1
            arrays.append(values)
    return arrays


_SHAPES: dict[type[Workload], Callable[[Any], list[tuple[int, ...]]]] = {
    Conv2dWorkload: lambda w: [
        (w.batch, w.in_height, w.in_width, w.in_channels),
        *([(w.batch, w.out_height, w.out_width, w.out_channels)] if w.residual else []),
    ],
    Pool2dWorkload: lambda w: [(w.batch, w.in_height, w.in_width, w.channels)],
    AddWorkload: lambda w: [w.shape, w.shape],
    MultiplyWorkload: lambda w: (
        [w.shape, (w.shape[0], *(1,) * (len(w.shape) - 2), w.shape[-1])] if w.broadcast else [w.shape, w.shape]
    ),
    ConcatWorkload: lambda w: [(w.rows, c) for c in w.channels],
    ActivationWorkload: lambda w: [w.shape],
    CopyWorkload: lambda w: [w.in_shape],
    AttentionWorkload: lambda w: list(w.sources),
    RecurrentWorkload: lambda w: [w.gates_shape, *([w.state_shape] if w.initial == "given" else [])],
    ConvertWorkload: lambda w: [(w.shape[0], w.shape[3], w.shape[1], w.shape[2]) if w.channels_first else w.shape],
}


def input_shapes(workload: Workload) -> list[tuple[int, ...]]:
    """Logical shapes of a workload's activations."""
    return _SHAPES[type(workload)](workload)
