"""Look-up convolutions equal the definition bit for bit: shapes, tails, ends of ranges, every epilogue and tile."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tvm

from tvm_mpq.kernels import lut  # noqa: F401  registers the row
from tvm_mpq.kernels.lut.pack import index_shape, pack_indices
from tvm_mpq.kernels.lut.shape import GROUP, LutShape, sums_limit
from tvm_mpq.kernels.registry import Family, Kernel, Request, families
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels
from tvm_mpq.schema import Conv2dWorkload, Precision, TensorQuant, padded_channels

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
NEEDED = frozenset({"avx512f", "avx512bw", "avx512vnni", "avx512vbmi"})
CPU = tvm.target.codegen.llvm_get_system_cpu()
HOST_FEATURES = frozenset(tvm.target.codegen.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mcpu": CPU})))
needs_vbmi = pytest.mark.skipif(not NEEDED <= HOST_FEATURES, reason="this CPU lacks AVX-512 VNNI or VBMI")

CHANNELS = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 17, (1, 1)),
    C(1, 7, 7, 10, 16, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 16, 10, (5, 5), (2, 2), (2, 2, 2, 2)),
    C(1, 7, 7, 17, 3, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 1, 1, 33, 64, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 64, 7, (3, 1), (1, 2), (1, 0, 1, 0)),
    C(3, 5, 5, 100, 1, (1, 1)),
    C(1, 1, 197, 20, 40, (1, 1), residual=True),
    C(2, 9, 9, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3), residual=True, activation="relu"),
    C(1, 7, 7, 10, 33, (1, 1), (2, 1), (1, 0, 0, 2)),
    C(2, 8, 6, 20, 20, (3, 3), (1, 1)),
    C(1, 9, 7, 12, 16, (2, 3), (3, 3), (0, 0, 0, 1)),
    C(1, 4, 1, 5, 17, (3, 3), (5, 5), (4, 4, 4, 0)),
]
TABLES = [
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 4, 5, 20, 3, (1, 1), residual=True, activation="silu"),
]


@pytest.fixture(scope="module")
def family() -> Family:
    (row,) = (f for f in families() if f.name == "qu8_qs2_s32_lutconv2d__avx512vbmi")
    return row


def make_operands(w: C, bits: int, out_bits: int, rng: np.random.Generator, extreme: int | None) -> Operands:
    """`extreme`: None for random weights and zero points, else the sign of all weights and the end of the range."""
    top = 2**bits - 1
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels)).astype(np.float32)
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


def check(kernel: Kernel, rng: np.random.Generator, extreme: int | None = None) -> None:
    request = kernel.request
    w, p = request.workload, request.precision
    assert isinstance(w, C)
    top = 2**p.activation_bits - 1
    operands = make_operands(w, p.activation_bits, request.out_bits, rng, extreme)
    x = rng.integers(0, top + 1, (w.batch, w.in_height, w.in_width, w.in_channels)).astype(np.uint8)
    if extreme is not None:
        x = rng.choice([0, top], x.shape).astype(np.uint8)
        x[:, : (w.in_height + 3) // 2] = top  # windows whose sums are the greatest
    inputs = [x]
    if w.residual:
        shape = (w.batch, w.out_height, w.out_width, w.out_channels)
        inputs.append(rng.integers(0, 256, shape).astype(np.uint8))
    target = tvm.target.Target({"kind": "llvm", "mcpu": "icelake-server"})
    library = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=target)
    cells = w.out_channels if request.out_bits == 32 else padded_channels(w.out_channels)
    out = np.zeros((w.batch, w.out_height, w.out_width, cells), np.float32 if request.out_bits == 32 else np.uint8)
    stored = [pad_channels(i, fill=251) for i in inputs]  # padded cells may hold anything
    args = [tvm.runtime.tensor(a) for a in (*stored, *kernel.constants(operands), out)]
    library["main"](*args)
    expected = evaluate(w, p, request.out_bits, operands, inputs)
    np.testing.assert_array_equal(args[-1].numpy()[..., : w.out_channels], expected)


def some_knobs(family: Family, request: Request, turn: int, **changed: object) -> dict[str, object]:
    space = family.knob_space(request)
    return {**space[turn % len(space)], **changed}


@needs_vbmi
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bits, out_bits", [(4, 8), (5, 32), (2, 8), (3, 32)])
def test_equals_reference(family: Family, bits: int, out_bits: int, threads: int, rng: np.random.Generator) -> None:
    """Every workload meets every thread count; bands of one row, of a few and of the whole map take turns."""
    for turn, w in enumerate(CHANNELS):
        if (turn + bits) % 2:
            continue
        request = Request(w, Precision(2, bits), out_bits, NEEDED, threads)
        assert family.fits(request)
        band = (1, 3, 1000)[(turn + threads) % 3]
        check(Kernel(request, family, some_knobs(family, request, turn, band=band)), rng)


@needs_vbmi
@pytest.mark.parametrize("w", TABLES, ids=["hard_swish", "silu"])
def test_table_activation_equals_reference(family: Family, w: C, rng: np.random.Generator) -> None:
    request = Request(w, Precision(2, 4), 8, NEEDED)
    check(Kernel(request, family, some_knobs(family, request, 0)), rng)


@needs_vbmi
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_ends_of_the_ranges(family: Family, bits: int, sign: int, rng: np.random.Generator) -> None:
    """All activations at one end, all weights at one: the greatest sums that bytes must hold."""
    w = C(1, 5, 5, 40, 20, (3, 3), (1, 1), SAME)
    request = Request(w, Precision(2, bits), 32, NEEDED)
    knobs = some_knobs(family, request, 0, sums=sums_limit(bits))
    check(Kernel(request, family, knobs), rng, sign)


@needs_vbmi
def test_every_candidate_equals_reference(family: Family, rng: np.random.Generator) -> None:
    request = Request(C(1, 9, 9, 48, 80, (3, 3), (1, 1), SAME), Precision(2, 4), 8, NEEDED)
    space = family.knob_space(request)
    assert 3 <= len(space) <= 12
    for knobs in space:
        check(Kernel(request, family, knobs), rng)


def test_looked_up_bytes_cannot_overflow() -> None:
    for bits in (2, 3, 4, 5):
        assert sums_limit(bits) >= 1 and sums_limit(bits) * GROUP * (2**bits - 1) <= 255
    assert sums_limit(6) == 0


def test_indices_select_the_subsets(rng: np.random.Generator) -> None:
    """A look-up in plain loops over the packed indices gives the sum of products."""
    w = C(1, 1, 1, 17, 20, (1, 3), (1, 1), (0, 1, 0, 1))
    shape, sums = LutShape.of(w), 4
    weight = rng.integers(-2, 2, (20, 1, 3, 17)).astype(np.int8)
    packed = pack_indices(weight, shape, sums)
    assert packed.shape == index_shape(shape, sums) and packed.max() < 64
    x = np.zeros((3, 20), np.int64)
    x[:, :17] = rng.integers(0, 16, (3, 17))
    flat = np.zeros((packed.shape[1], 2, GROUP), np.int64)
    flat[: 3 * shape.tables] = x.reshape(-1, 2, GROUP)
    for o in (0, 7, 19):
        total = 0
        for step, byte in itertools.product(range(packed.shape[1]), range(4)):
            q, entry = divmod(int(packed[o // 16, step, o % 16, byte]), 32)
            subset = sum(int(flat[step, q, j]) for j in range(GROUP) if entry >> j & 1)
            total += (1, -2, 1, -2)[byte] * subset
        assert total == int((x[:, :17] * weight[o, 0]).sum())


def test_refuses_what_it_cannot_do(family: Family) -> None:
    w = C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME)
    assert family.fits(Request(w, Precision(2, 4), 8, NEEDED))
    refused = [
        Request(w, Precision(2, 6), 8, NEEDED),
        Request(w, Precision(3, 4), 8, NEEDED),
        Request(w, Precision(2, 4), 8, NEEDED - {"avx512vbmi"}),
        Request(dataclasses.replace(w, groups=4), Precision(2, 4), 8, NEEDED),
        Request(dataclasses.replace(w, dilation=(2, 2)), Precision(2, 4), 8, NEEDED),
        Request(dataclasses.replace(w, activation="gelu"), Precision(2, 4), 32, NEEDED),
        Request(C(1, 1, 1, 64, 64, (1, 1)), Precision(2, 4), 8, NEEDED),
    ]
    assert not [r.key for r in refused if family.fits(r)]
