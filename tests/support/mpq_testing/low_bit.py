"""Convolutions of few bits: operands, random and of the greatest sums, and kernels compared with the definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm

from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels
from tvm_mpq.schema import Conv2dWorkload, TensorQuant, padded_channels
from tvm_mpq.targets import local_row, to_tvm


def make_operands(
    w: Conv2dWorkload, bits: int, out_bits: int, rng: np.random.Generator, extreme: int | None
) -> Operands:
    """`extreme`: None for random weights and zero points, else the sign of all weights and the end of the range."""
    top = 2**bits - 1
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups)).astype(np.float32)
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


Run = Callable[[Operands, list[np.ndarray]], np.ndarray]


def compiled(kernel: Kernel, mcpu: str | None = None) -> Run:
    """The kernel on logical arrays, compiled for the core `mcpu`, None = for this CPU."""
    w, out_bits = kernel.request.workload, kernel.request.out_bits
    assert isinstance(w, Conv2dWorkload)
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu}) if mcpu else to_tvm(local_row())
    library = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=target)
    cells = w.out_channels if out_bits == 32 else padded_channels(w.out_channels)

    def run(operands: Operands, inputs: list[np.ndarray]) -> np.ndarray:
        out = np.zeros((w.batch, w.out_height, w.out_width, cells), np.float32 if out_bits == 32 else np.uint8)
        stored = [pad_channels(i, fill=251) for i in inputs]  # padded cells may hold anything
        args = [tvm.runtime.tensor(a) for a in (*stored, *kernel.constants(operands), out)]
        library["main"](*args)
        return np.asarray(args[-1].numpy()[..., : w.out_channels])

    return run


def check(
    kernel: Kernel, rng: np.random.Generator, extremes: Sequence[int | None] = (None,), *, mcpu: str | None = None
) -> None:
    """Compiled as `compiled` does, the kernel equals the definition on seeded operands, one set for each extreme."""
    request, run = kernel.request, compiled(kernel, mcpu)
    w, p = request.workload, request.precision
    assert isinstance(w, Conv2dWorkload)
    top = 2**p.activation_bits - 1
    for extreme in extremes:
        operands = make_operands(w, p.activation_bits, request.out_bits, rng, extreme)
        x = rng.integers(0, top + 1, (w.batch, w.in_height, w.in_width, w.in_channels)).astype(np.uint8)
        if extreme is not None:
            x = rng.choice([0, top], x.shape).astype(np.uint8)
            x[:, : (w.in_height + 3) // 2] = top  # windows whose sums are the greatest
        inputs = [x]
        if w.residual:
            shape = (w.batch, w.out_height, w.out_width, w.out_channels)
            inputs.append(rng.integers(0, 256, shape).astype(np.uint8))
        expected = evaluate(w, p, request.out_bits, operands, inputs)
        np.testing.assert_array_equal(run(operands, inputs), expected)
