"""Attention on bytes equals its definition bit for bit, whatever the shape and at both ends of all ranges."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_testing.avx_vnni import imitated
from tvm_mpq.errors import NoKernelError
from tvm_mpq.kernels import (
    Family,
    Kernel,
    Request,
    candidacy,
    candidate_precisions,
    candidates,
    default_kernel,
    families,
)
from tvm_mpq.kernels.frames import attention
from tvm_mpq.numerics.affine import quantize
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.schema import FP32, W8A8, AttentionWorkload, LeftOutReason, TensorQuant
from tvm_mpq.targets import features, local_row, resolve, to_tvm

FEATURES = features(local_row())
NAME = "qu8_qu8_s32_attention__"
LONGEST = 33025
"""(2^31 - 1) / 255^2, rounded down."""


def joined(batch: int, heads: int, tokens: int, depth: int, scale: float = 0.0) -> AttentionWorkload:
    """q, k and v in one tensor [batch, tokens, 3 * heads * depth], as one linear layer leaves them."""
    width = heads * depth
    strides = (tokens * 3 * width, depth, 3 * width, 1)
    places = [(0, i * width, *strides) for i in range(3)]
    shape = batch, tokens, 3 * width
    return AttentionWorkload(batch, heads, tokens, tokens, depth, depth, scale or depth**-0.5, (shape,), *places)


def apart(heads: int, queries: int, keys: int, depth: int, out_depth: int, scale: float = 0.0) -> AttentionWorkload:
    """Three tensors, keys stored feature by feature."""
    sources = (1, queries, heads * depth), (1, heads * depth, keys), (1, keys, heads * out_depth)
    q, v = ((i, 0, 0, d, heads * d, 1) for i, d in ((0, depth), (2, out_depth)))
    k = (1, 0, 0, depth * keys, 1, keys)
    return AttentionWorkload(1, heads, queries, keys, depth, out_depth, scale or depth**-0.5, sources, q, k, v)


def operands(w: AttentionWorkload, rng: np.random.Generator, out_bits: int = 8, zero: int | None = None) -> Operands:
    """Scales that spread scores and results; zero: of all inputs, random where it is None."""
    zeros = rng.integers(0, 256, len(w.sources)) if zero is None else [zero] * len(w.sources)
    inputs = tuple(TensorQuant(8, 0.02, int(z)) for z in zeros)
    return Operands(inputs, TensorQuant(8, 0.01, 131) if out_bits == 8 else None)


def row(isa: str) -> Family:
    (found,) = (f for f in families() if f.name == NAME + isa)
    return found


def compare(
    kernel: Kernel, given: Operands, inputs: list[np.ndarray], target: tvm.target.Target | None = None
) -> np.ndarray:
    """The definition's result, to which the kernel's is equal."""
    request = kernel.request
    library = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=target or to_tvm(local_row()))
    shape, dtype = kernel.buffers[-1]
    stored = [pad_channels(x, fill=251) for x in inputs]  # padded cells may hold anything
    args = [tvm.runtime.tensor(a) for a in (*stored, *kernel.constants(given), np.zeros(shape, dtype))]
    library["main"](*args)
    want = evaluate(request.workload, W8A8, request.out_bits, given, inputs)
    got = np.asarray(args[-1].numpy())
    np.testing.assert_array_equal(got if dtype == "float32" else unpad(got, want.shape[-1]), want)
    return want


def random_bytes(w: AttentionWorkload, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in w.sources]


def offered(w: AttentionWorkload, isa: str, out_bits: int = 8, threads: int = 1) -> list[Kernel]:
    request = Request(w, W8A8, out_bits, FEATURES, threads)
    return [kernel for kernel in candidates(request) if kernel.family.name == NAME + isa]


MACHINES = [pytest.param("avx2", marks=pytest.mark.isa("avx2")), "generic"]


@pytest.mark.parametrize("isa", MACHINES)
def test_every_candidate(isa: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """At two threads, which share a head's packed keys; other tests run one."""
    monkeypatch.setattr(attention, "_PARALLEL_FROM", 0)
    w = joined(1, 3, 37, 24)
    kernels = offered(w, isa, 8, threads=2)
    assert len(kernels) > 1
    for kernel in kernels:
        want = compare(kernel, operands(w, rng), random_bytes(w, rng))
    assert len(np.unique(want)) > 50


@pytest.mark.parametrize("isa", MACHINES)
@settings(max_examples=4, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 40), st.integers(8, 41)),
    other=st.none() | st.tuples(st.integers(1, 20), st.integers(8, 20)),
    out_bits=st.sampled_from([8, 32]),
    seed=st.integers(0, 99),
)
def test_any_shape(
    isa: str, shape: tuple[int, int, int, int], other: tuple[int, int] | None, out_bits: int, seed: int
) -> None:
    """Odd numbers of heads, tokens and features; keys stored by features, of another number than queries."""
    rng = np.random.default_rng(seed)
    _, heads, tokens, depth = shape
    w = joined(*shape) if other is None else apart(heads, other[0], tokens, depth, other[1])
    compare(offered(w, isa, out_bits)[-1], operands(w, rng, out_bits), random_bytes(w, rng))


@functools.cache
def at_the_ends(isa: str, length: str) -> tuple[AttentionWorkload, Kernel]:
    """Few numbers beside the longest sum, of features or of keys."""
    features = length == "features"
    w = apart(1, 2, 4, LONGEST, 8, 1e-3) if features else apart(1, 2, LONGEST, 4, 8)
    return w, offered(w, isa, 32)[0]


@pytest.mark.parametrize("isa", MACHINES)
@pytest.mark.parametrize("length", ["features", "keys"])
@pytest.mark.parametrize("zero", [0, 255])
def test_the_longest_sums_do_not_wrap(isa: str, length: str, zero: int, rng: np.random.Generator) -> None:
    """All operands as far from their zero point as they can be: sums are +-255 * 255 * 33025."""
    w, kernel = at_the_ends(isa, length)
    far = 255 - zero
    q, k, v = (np.full(shape, far, np.uint8) for shape in w.sources)
    if length == "features":
        k[..., 1:] = zero  # the first key differs from the others by the greatest sum
        k[:, : w.features // 2, 2] = far
    given = dataclasses.replace(operands(w, rng, 32, zero), inputs=tuple(TensorQuant(8, 1e-3, zero) for _ in range(3)))
    want = compare(kernel, given, [q, k, v])
    np.testing.assert_allclose(want, (far - zero) * 1e-3, rtol=1e-6)  # equal values have themselves as their mean


@pytest.mark.parametrize("w", [apart(1, 2, 4, LONGEST + 1, 8), apart(1, 2, LONGEST + 1, 4, 8)])
def test_longer_sums_are_refused(w: AttentionWorkload) -> None:
    with pytest.raises(NoKernelError, match=rf"adds up {LONGEST + 1} products, int32 holds {LONGEST}; take .* fp32"):
        default_kernel(Request(w, W8A8, 8, FEATURES))
    assert candidate_precisions(w, FEATURES) == [FP32]


@pytest.mark.parametrize("zero", [0, 255])
@pytest.mark.parametrize("isa", MACHINES)
def test_both_ends_of_all_operands(isa: str, zero: int, rng: np.random.Generator) -> None:
    w = joined(1, 2, 21, 18, 0.05)
    x = rng.choice([0, 255], w.sources[0]).astype(np.uint8)
    want = compare(offered(w, isa)[0], operands(w, rng, zero=zero), [x])
    assert {0, 255} & set(want.reshape(-1).tolist())


def test_the_definition_is_near_that_of_floats(rng: np.random.Generator) -> None:
    """Of scores that differ by a few units, a weight of 8 bits is off by 1/510 of the heaviest at most."""
    w = joined(1, 2, 33, 16)
    real = rng.standard_normal(w.sources[0]).astype(np.float32)
    quant = TensorQuant(8, 8 / 255, 128)
    x = quantize(real, quant)
    wide = (x.astype(np.float32) - 128) * np.float32(quant.scale)
    want = evaluate(w, FP32, 32, Operands((None,), None), [wide])
    got = evaluate(w, W8A8, 32, Operands((quant,), None), [x])
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 1e-5 < error < 0.02, error


@pytest.mark.parametrize(
    ("target", "isa", "instruction"), [("cascadelake", "avx512vnni", "vpdpwssd"), ("alderlake", "avxvnni", "vpdpwssd")]
)
def test_products_are_the_machines(target: str, isa: str, instruction: str) -> None:
    found = resolve(target)
    kernel = default_kernel(Request(joined(1, 1, 33, 32), W8A8, 8, features(found)))
    assert kernel.family.name == NAME + isa
    text = str(tvm.compile(tvm.IRModule({"main": kernel.build()}), target=to_tvm(found)).mod.inspect_source("s"))
    wide = "%zmm" if isa == "avx512vnni" else "%ymm"
    assert any(instruction in line and wide in line for line in text.splitlines())


def test_avx_vnni_equals_the_definition(rng: np.random.Generator) -> None:
    found = resolve("alderlake")
    w = joined(1, 3, 29, 20)
    with imitated():
        compare(
            default_kernel(Request(w, W8A8, 8, features(found))), operands(w, rng), random_bytes(w, rng), to_tvm(found)
        )


def test_who_is_offered_8_bits() -> None:
    """Where floats are as fast, a plan that names 8 bits still runs."""
    w = joined(1, 3, 37, 64)
    for name, wanted in (("haswell", [FP32, W8A8]), ("x86-64", [FP32]), ("cortex-a72", [FP32])):
        isa = features(resolve(name))
        assert candidate_precisions(w, isa) == wanted, name
        assert candidacy(w, isa)[W8A8] == (None if W8A8 in wanted else LeftOutReason.SLOWER)
        assert default_kernel(Request(w, W8A8, 8, isa)).family.name.startswith(NAME)


def test_what_has_no_kernel() -> None:
    w = joined(1, 2, 9, 16)
    batch, head, feature = w.v[2], w.v[3], w.v[5]
    scattered = dataclasses.replace(w, v=(0, 64, batch, head, feature, 96))
    across = dataclasses.replace(joined(1, 1, 4, 10), k=(0, 25, 0, 0, 30, 1))  # features over the end of a row
    narrow = joined(1, 4, 9, 3)
    for wrong in (scattered, across, narrow):
        with pytest.raises(NoKernelError, match=r"no kernel for attention\("):
            default_kernel(Request(wrong, W8A8, 8, FEATURES))
