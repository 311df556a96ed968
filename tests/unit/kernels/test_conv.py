"""Integer convolutions equal the definition bit for bit: every family, every shape class, every end of the ranges.

In one file: one comparison with the definition, for every family.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm

from mpq_testing.conv_cases import TRANSPOSED
from mpq_testing.objects import object_architecture
from tvm_mpq import targets
from tvm_mpq.kernels.families import dense  # noqa: F401  registers the rows
from tvm_mpq.kernels.packing import ranges
from tvm_mpq.kernels.registry import Kernel, Request, default_kernel, families, fitting
from tvm_mpq.kernels.shapes import geometry
from tvm_mpq.kernels.shapes.geometry import ChannelTiles, tile_channels, useful_threads
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels
from tvm_mpq.schema import W4A8, W8A8, Conv2dWorkload, Precision, TensorQuant, padded_channels

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
AVX2 = frozenset({"avx2"})
VNNI = AVX2 | {"avx512f", "avx512bw", "avx512vnni"}
VBMI = VNNI | {"avx512vbmi", "avx512vl"}
HOST_FEATURES = targets.features(targets.local_row())

DENSE = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 17, (1, 1)),
    C(1, 1, 1, 33, 64, (3, 3), (1, 1), SAME),
    C(1, 1, 197, 16, 20, (1, 1), residual=True),
    C(1, 1, 1, 64, 100, (1, 1)),
    C(1, 7, 7, 17, 3, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 13, 9, 16, 33, (5, 3), (2, 1), (2, 0, 1, 3), (2, 3)),
    C(2, 9, 9, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    C(3, 5, 5, 100, 1, (1, 1)),
    C(1, 6, 7, 33, 40, (3, 3), (1, 1), SAME, residual=True, activation="relu"),
]
TABLES = [
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 4, 5, 20, 3, (1, 1), residual=True, activation="silu"),
    C(1, 7, 7, 40, 40, (3, 3), (1, 1), SAME, groups=40, activation="hard_swish"),
]
DEPTHWISE = [
    C(1, 13, 9, 17, 17, (3, 3), (2, 2), SAME, groups=17, activation="relu"),
    C(1, 7, 7, 64, 64, (3, 3), (1, 1), SAME, groups=64, residual=True),
    C(2, 8, 8, 24, 24, (5, 5), (2, 2), (1, 2, 2, 1), groups=24),
    C(1, 7, 7, 100, 100, (5, 5), (1, 1), (2, 2, 2, 2), groups=100),
    C(1, 9, 8, 16, 16, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), groups=16),
    C(1, 1, 1, 20, 20, (3, 3), (1, 1), SAME, groups=20),
    C(1, 5, 9, 20, 20, (1, 7), (1, 1), (0, 3, 0, 3), groups=20),
]
PARTS = [  # half blocks, left-over channels and positions, weights expanded once: what the AVX-512 frame does by shape
    (C(1, 13, 9, 24, 40, (1, 1), residual=True, activation="relu"), W8A8),
    (C(1, 7, 7, 72, 24, (1, 1), activation="hard_swish"), W8A8),
    (C(1, 5, 5, 20, 8, (3, 3), (1, 1), SAME, residual=True), W8A8),
    (C(1, 9, 11, 30, 72, (3, 3), (2, 2), SAME, activation="clip:0.0:3.0"), W4A8),
    (C(2, 9, 9, 3, 20, (3, 3), (2, 2), SAME), W4A8),
    (C(1, 1, 197, 12, 200, (1, 1)), W4A8),
    (C(1, 15, 15, 300, 24, (1, 1)), W4A8),
    (C(1, 9, 11, 72, 72, (5, 5), (1, 1), (2, 2, 2, 2), groups=72, residual=True), W8A8),
]
GROUPED = [
    C(1, 5, 6, 3, 3, (3, 3), (1, 1), SAME, groups=3),
    C(1, 5, 6, 6, 12, (3, 3), (1, 1), SAME, groups=6),
    C(1, 9, 8, 32, 64, (3, 3), (2, 2), SAME, groups=4, residual=True),
    C(1, 5, 4, 30, 20, (1, 1), groups=5),
]
SHAPES = {"dense": DENSE, "tables": TABLES, "depthwise": DEPTHWISE, "grouped": GROUPED, "transposed": TRANSPOSED}


@pytest.fixture(autouse=True)
def small_kernels_use_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PARALLEL_MACS", 0)


def mcpu_of(features: frozenset[str]) -> str:
    if "avx512vnni" in features:
        return "icelake-server" if "avx512vbmi" in features else "cascadelake"
    return "haswell" if "avx2" in features else "x86-64"


def make_operands(w: C, p: Precision, out_bits: int, rng: np.random.Generator, extreme: bool) -> Operands:
    taps = w.kernel[0] * w.kernel[1] * w.in_channels // w.groups
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups)).astype(np.float32)
    top = 2**p.activation_bits - 1
    zero_point = int(rng.integers(0, top + 1))
    if extreme:
        weight, zero_point = np.sign(weight), int(rng.choice([0, top]))
    bias = rng.standard_normal(w.out_channels).astype(np.float32)

    def quant(scale: float, zero_point: int, bits: int = 8) -> TensorQuant:
        return TensorQuant(bits, float(np.float32(scale)), zero_point)

    inputs = (quant(0.03, zero_point, p.activation_bits), *([quant(0.05, 131)] if w.residual else []))
    return Operands(
        inputs,
        None if out_bits == 32 else quant(0.01 * taps**0.5, 120),
        weight,
        bias,
        None if is_clamp(w.activation) else quant(0.012 * taps**0.5, 100),
    )


def make_inputs(w: C, p: Precision, rng: np.random.Generator, extreme: bool) -> list[np.ndarray]:
    top = 2**p.activation_bits - 1
    shape = (w.batch, w.in_height, w.in_width, w.in_channels)
    x = rng.choice([0, top], shape) if extreme else rng.integers(0, top + 1, shape)
    r = rng.integers(0, 256, (w.batch, w.out_height, w.out_width, w.out_channels))
    return [x.astype(np.uint8), *([r.astype(np.uint8)] if w.residual else [])]


def compile_kernel(kernel: Kernel, target: dict[str, object]) -> tvm.runtime.Module:
    return tvm.compile(tvm.IRModule({"main": kernel.build()}), target=tvm.target.Target(target))


def check(
    kernel: Kernel, rng: np.random.Generator, extreme: bool, change: Callable[[Operands], Operands] | None = None
) -> None:
    request = kernel.request
    w, p = request.workload, request.precision
    assert isinstance(w, C)
    operands, inputs = make_operands(w, p, request.out_bits, rng, extreme), make_inputs(w, p, rng, extreme)
    operands = change(operands) if change else operands
    library = compile_kernel(kernel, {"kind": "llvm", "mcpu": mcpu_of(request.features)})
    cells = w.out_channels if request.out_bits == 32 else padded_channels(w.out_channels)
    out = np.zeros((w.batch, w.out_height, w.out_width, cells), np.float32 if request.out_bits == 32 else np.uint8)
    stored = [pad_channels(x, fill=77) for x in inputs]  # padded cells may hold anything
    args = [tvm.runtime.tensor(a) for a in (*stored, *kernel.constants(operands), out)]
    library["main"](*args)
    expected = evaluate(w, p, request.out_bits, operands, inputs)
    np.testing.assert_array_equal(args[-1].numpy()[..., : w.out_channels], expected)


def kernels(w: C, p: Precision, out_bits: int, features: frozenset[str], suffix: str, threads: int = 1) -> list[Kernel]:
    request = Request(w, p, out_bits, features, threads)
    rows = [f for f in fitting(request) if f.name.endswith(suffix) and f.name.startswith("qu8")]
    out = []
    for row in rows:
        space = row.knob_space(request)
        out.append(Kernel(request, row, space[len(w.key) % len(space)]))  # a mixture of tiles over the workloads
    return out


def sweep(features: frozenset[str], suffix: str, workloads: list[C], rng: np.random.Generator) -> None:
    """Each workload with one precision, output width, thread count and operand extreme, all combinations in turn."""
    if not features <= HOST_FEATURES:
        pytest.skip(f"this CPU lacks {', '.join(sorted(features - HOST_FEATURES))}")
    turns = itertools.cycle(
        [
            (W8A8, 8, 1, True),
            (W4A8, 32, 2, False),
            (W8A8, 32, 2, False),
            (W4A8, 8, 1, True),
            (Precision(2, 5), 8, 2, True),
        ]
    )
    ran = 0
    for w, (p, out_bits, threads, extreme) in zip(workloads, turns, strict=False):
        bits = out_bits if is_clamp(w.activation) else 8
        for kernel in kernels(w, p, bits, features, suffix, threads):
            check(kernel, rng, extreme)
            ran += 1
    assert ran >= len(workloads)


@pytest.mark.parametrize("group", list(SHAPES.values()), ids=list(SHAPES))
def test_avx512_equals_reference(group: list[C], rng: np.random.Generator) -> None:
    sweep(VBMI if VBMI <= HOST_FEATURES else VNNI, "__avx512vnni", group, rng)


@pytest.mark.parametrize(
    "group", [DENSE, TABLES[:2], GROUPED, TRANSPOSED], ids=["dense", "tables", "grouped", "transposed"]
)
def test_avx2_equals_reference(group: list[C], rng: np.random.Generator) -> None:
    sweep(AVX2, "__avx2", group, rng)


@pytest.mark.parametrize("group", list(SHAPES.values()), ids=list(SHAPES))
def test_generic_equals_reference(group: list[C], rng: np.random.Generator) -> None:
    if "avx2" not in HOST_FEATURES:
        pytest.skip("the generic families are compiled for x86-64 here")
    sweep(frozenset(), "__generic", group, rng)


@pytest.mark.parametrize(
    "w, p",
    [
        (C(1, 6, 9, 48, 48, (3, 3), (1, 1), SAME), W8A8),
        (C(1, 6, 9, 48, 48, (3, 3), (1, 1), SAME), W4A8),
        (C(1, 8, 7, 32, 32, (3, 3), (1, 1), SAME, groups=32), W8A8),
    ],
)
def test_every_candidate_equals_reference(w: C, p: Precision, rng: np.random.Generator) -> None:
    if not VBMI <= HOST_FEATURES:
        pytest.skip("this CPU lacks AVX-512 VNNI")
    request = Request(w, p, 8, VBMI)
    family = fitting(request)[0]
    space = family.knob_space(request)
    assert 3 <= len(space) <= 12
    for knobs in space:
        check(Kernel(request, family, knobs), rng, extreme=False)


@pytest.mark.parametrize("w, p", PARTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_parts_equal_reference(w: C, p: Precision, threads: int, rng: np.random.Generator) -> None:
    if not VBMI <= HOST_FEATURES:
        pytest.skip("this CPU lacks AVX-512 VNNI")
    for features, out_bits, every in ((VBMI, 8, 4), (VNNI, 5, 9)) if threads == 1 else ((VBMI, 8, 9),):
        request = Request(w, p, out_bits, features, threads)
        family = next(f for f in fitting(request) if f.name.endswith("__avx512vnni"))
        for knobs in family.knob_space(request)[::every]:
            check(Kernel(request, family, knobs), rng, extreme=False)


@pytest.mark.parametrize("inputs", [64, 129, 130])
@pytest.mark.parametrize("scale, bias", [(1e-9, 1.0), (1e-4, 1e9), (1e-2, -1e4), (1e-30, 0.0)])
def test_outputs_far_beyond_int32_saturate(inputs: int, scale: float, bias: float, rng: np.random.Generator) -> None:
    """Packs saturate int32; constants (up to 129 inputs) or a float minimum (beyond) keep y there."""
    if not VBMI <= HOST_FEATURES:
        pytest.skip("this CPU lacks AVX-512 VNNI")
    request = Request(C(1, 3, 3, inputs, 16, (1, 1)), W8A8, 8, VBMI)
    assert ranges.bounded(request.workload, 8) == (inputs <= 129)
    signs = np.where(np.arange(16) % 2, np.float32(bias), np.float32(-bias)).astype(np.float32)

    def far(operands: Operands) -> Operands:
        return dataclasses.replace(operands, output=TensorQuant(8, float(np.float32(scale)), 100), bias=signs)

    family = fitting(request)[0]
    check(Kernel(request, family, family.knob_space(request)[0]), rng, extreme=True, change=far)


def test_limited_constants_are_equal_ones(rng: np.random.Generator) -> None:
    w = C(1, 1, 1, 16, 1, (1, 1))
    for _ in range(300):
        m = np.array([10 ** rng.uniform(-9, 9)], np.float32)
        bias = np.array([int(rng.choice([-1, 1]) * 2 ** rng.uniform(0, 30))], np.int32)
        sums = rng.integers(-255 * 127 * 16, 255 * 127 * 16 + 1, 50)
        new_bias, new_m = ranges.limited(w, 8, bias, m)
        zero_point = int(rng.integers(0, 256))

        def out(b: np.ndarray, factor: np.ndarray, sums: np.ndarray = sums, z: int = zero_point) -> np.ndarray:
            y = (sums + b.astype(np.int64)).astype(np.float32) * factor
            return np.clip(np.rint(y.astype(np.float64)) + z, 0, 255)

        np.testing.assert_array_equal(out(new_bias, new_m), out(bias, m))
        assert (np.abs(sums + new_bias.astype(np.int64)).astype(np.float64) * float(new_m[0])).max() < 2**31


def test_channel_tiles_cover_each_block_once() -> None:
    for blocks, tile, half in itertools.product(range(1, 20), range(1, 9), (False, True)):
        parts = tile_channels(blocks, min(tile, blocks), half)
        covered = [b for part in parts for b in range(part.first, part.first + part.count * part.blocks)]
        assert covered == list(range(blocks))
        assert parts[-1].half == half
        assert all(not p.half or p.count == 1 for p in parts)
    assert tile_channels(9, 2, True) == [ChannelTiles(0, 3, 2, False), ChannelTiles(6, 1, 3, True)]


def test_small_kernels_stay_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PARALLEL_MACS", 1000)
    assert useful_threads(C(1, 1, 10, 10, 9, (1, 1)), 2) == 1
    assert useful_threads(C(1, 1, 10, 10, 10, (1, 1)), 2) == 2
    assert useful_threads(C(1, 4, 4, 10, 10, (3, 3), groups=10), 2) == 2  # 360 products, each as long as three


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "riscv64-linux-gnu"])
@pytest.mark.parametrize("w", [DENSE[1], DEPTHWISE[0], GROUPED[2]], ids=["dense", "depthwise", "grouped"])
def test_generic_compiles_for_other_architectures(target: str, w: C, tmp_path: Path) -> None:
    (kernel,) = kernels(w, W8A8, 8, frozenset(), "__generic")
    library = compile_kernel(kernel, {"kind": "llvm", "mtriple": target})
    library.mod.write_to_file(str(tmp_path / "kernel.o"), "o")
    assert object_architecture(tmp_path / "kernel.o") == target.split("-")[0]


def test_every_target_has_eight_bits() -> None:
    for w in [*DENSE, *TABLES, *DEPTHWISE, *GROUPED]:
        assert fitting(Request(w, W8A8, 8, frozenset())), w.key


def test_float_output_of_a_table_activation_is_refused() -> None:
    assert not [f for f in fitting(Request(TABLES[0], W8A8, 32, VBMI)) if f.name.startswith("qu8")]


def test_four_bit_weights_take_half_the_bytes(rng: np.random.Generator) -> None:
    w = C(1, 8, 8, 64, 64, (3, 3), (1, 1), SAME)
    sizes = {}
    for p in (W8A8, W4A8):
        kernel = kernels(w, p, 8, VNNI, "__avx512vnni")[0]
        sizes[p] = kernel.constants(make_operands(w, p, 8, rng, False))[0].nbytes
    assert sizes[W8A8] == w.weight_count and sizes[W4A8] * 2 == w.weight_count


def test_names_say_what_they_need() -> None:
    for family in families():
        if family.workload_type is C and family.name.startswith("qu8"):
            isa = family.name.rpartition("__")[2]
            assert isa == "generic" or isa in family.isa_features


@pytest.mark.parametrize(("channels", "asked"), [(512, True), (128, False)])
def test_large_weights_are_prefetched(channels: int, asked: bool) -> None:
    """Where a tile of channels meets few positions, the next tile's weights are on their way."""
    workload = C(1, 7, 7, channels, channels, (1, 1))
    kernel = default_kernel(Request(workload, W8A8, 8, VNNI))
    target = tvm.target.Target({"kind": "llvm", "mcpu": "icelake-server"})
    library = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=target)
    assert ("prefetcht0" in library.mod.inspect_source("s")) is asked
