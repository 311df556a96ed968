"""Attention and layer normalisation as rows of the kernel table: every knob against the definition, and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm

from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.kernels import Kernel, Request, candidates, default_kernel
from tvm_mpq.numerics.affine import dequantize, quantize
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, W8A8, AttentionWorkload, NormWorkload, TensorQuant
from tvm_mpq.targets import features, local_row, to_tvm_attrs

FEATURES = features(local_row())
TARGET = tvm.target.Target(to_tvm_attrs(local_row(), 1))
TOKENS, HEADS, DEPTH = 29, 2, 12
JOINED = (1, TOKENS, 3 * HEADS * DEPTH)
STRIDES = (TOKENS * JOINED[2], DEPTH, JOINED[2], 1)
ATTENTION = AttentionWorkload(
    *(1, HEADS, TOKENS, TOKENS, DEPTH, DEPTH, 0.25),
    sources=(JOINED,),
    q=(0, 0, *STRIDES),
    k=(0, HEADS * DEPTH, *STRIDES),
    v=(0, 2 * HEADS * DEPTH, *STRIDES),
)
BEFORE, AFTER = TensorQuant(8, 0.03125, 117), TensorQuant(8, 0.0234375, 140)


def run(kernel: Kernel, operands: Operands, *inputs: np.ndarray) -> np.ndarray:
    library = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=TARGET)
    shape, dtype = kernel.buffers[-1]
    out = tvm.runtime.tensor(np.zeros(shape, dtype))
    library["main"](*map(tvm.runtime.tensor, [*inputs, *kernel.constants(operands)]), out)
    return np.asarray(out.numpy())


@pytest.mark.parametrize("threads", [1, 2])
def test_every_candidate_of_attention(threads: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(JOINED).astype(np.float32)
    q, k, v = x.astype(np.float64).reshape(TOKENS, 3, HEADS, DEPTH).transpose(1, 2, 0, 3)
    weights = np.exp(0.25 * q @ k.transpose(0, 2, 1))
    want = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2)[None]
    kernels = list(candidates(Request(ATTENTION, FP32, 32, FEATURES, threads)))
    assert len({kernel.knobs["rows"] for kernel in kernels}) == len(kernels) > 1
    for kernel in kernels:
        got = run(kernel, Operands((None,), None), x)
        # DEPTH roundings in a score are relative errors of the weights, TOKENS more in the sum over the keys
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * (DEPTH + TOKENS) * 6e-8 * np.abs(want).max())


def test_attention_needs_neighbouring_features_of_v() -> None:
    batch, head, row, _ = STRIDES
    scattered = dataclasses.replace(ATTENTION, v=(0, 48, batch, head, 1, row))
    with pytest.raises(NoKernelError, match=r"no kernel for attention\("):
        default_kernel(Request(scattered, FP32, 32, FEATURES))


@pytest.mark.parametrize("to_bytes", [False, True])
@pytest.mark.parametrize("from_bytes", [False, True])
def test_every_candidate_of_norm(from_bytes: bool, to_bytes: bool, rng: np.random.Generator) -> None:
    workload = NormWorkload((3, 7, 48), 1e-5)
    gamma, beta = (rng.normal(1, 0.5, 48).astype(np.float32) for _ in range(2))
    x = rng.normal(3, 2, workload.shape).astype(np.float32)
    stored = quantize(x, BEFORE) if from_bytes else x
    wide = (dequantize(stored, BEFORE) if from_bytes else x).astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    want = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta
    operands = Operands((BEFORE if from_bytes else None,), AFTER if to_bytes else None, gamma, beta)
    request = Request(workload, W8A8 if from_bytes else FP32, 8 if to_bytes else 32, FEATURES)
    for kernel in candidates(request):
        got = run(kernel, operands, stored)
        if to_bytes:
            expected = quantize(want.astype(np.float32), AFTER).astype(int)
            steps = want / AFTER.scale
            clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-4  # not where float32's rounding decides
            assert clear.mean() > 0.99 and np.array_equal(got[clear], expected[clear])
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_norm_on_bytes_needs_whole_channels() -> None:
    workload = NormWorkload((3, 7, 50), 1e-5)
    assert default_kernel(Request(workload, FP32, 32, FEATURES)).family.name == "f32_layernorm__generic"
    for precision, out_bits in ((W8A8, 32), (FP32, 8)):
        with pytest.raises(NoKernelError, match=r"no kernel for layer_norm\("):
            default_kernel(Request(workload, precision, out_bits, FEATURES))


def test_norm_says_what_its_constants_need() -> None:
    kernel = default_kernel(Request(NormWorkload((3, 48), 1e-5), FP32, 8, FEATURES))
    with pytest.raises(InvalidValueError, match="gamma as its weight"):
        kernel.constants(Operands((None,), AFTER))
    ones = np.ones(48, np.float32)
    with pytest.raises(InvalidValueError, match="needs an output TensorQuant"):
        kernel.constants(Operands((None,), None, ones, ones))
