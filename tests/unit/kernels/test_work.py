"""What rows state of their work, against numbers that are worked out by hand beside them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tvm_mpq.kernels import Kernel, Request, candidates, families
from tvm_mpq.kernels.registry import named_kernel
from tvm_mpq.kernels.work import Passes, Work
from tvm_mpq.schema import (
    FLOAT_BITS,
    AttentionWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    MultiplyWorkload,
    NormWorkload,
    Pool2dWorkload,
    Precision,
    Workload,
)
from tvm_mpq.targets import features, resolve

CONV = Conv2dWorkload(1, 28, 28, 64, 96, (3, 3), padding=(1, 1, 1, 1))
POSITIONS, BLOCKS, TAPS = 28 * 28, 96 // 16, 9
MAP_BYTES, WEIGHTS = 28 * 28 * 64, 9 * 64 * 96
BORDERED = 30 * 30
"""Positions with the border."""
LINEAR = Conv2dWorkload(1, 1, 1, 256, 64, (1, 1))
TILE = {"rows": 1, "columns": 7, "blocks": 2, "order": "channels"}


def work(family: str, workload: Workload, precision: str, knobs: dict[str, Any], target: str = "znver4") -> Work:
    bits = Precision.parse(precision)
    out_bits = workload.to_bits if isinstance(workload, ConvertWorkload) else FLOAT_BITS if bits.is_float else 8
    return named_kernel(Request(workload, bits, out_bits, features(resolve(target))), family, knobs).work


def test_dense_bytes() -> None:
    """A product takes four input channels of 16 outputs; 28 rows of 4 tiles of columns, 3 tiles of channels."""
    found = work("qu8_qs8_s32_conv2d__avx512vnni", CONV, "w8a8", TILE)
    steps, tiles = TAPS * 64 // 4, 28 * 4 * 3
    assert found == Work(
        products=POSITIONS * BLOCKS * steps,
        loads=tiles * (7 + 2) * steps,
        stores=POSITIONS * BLOCKS,
        tiles=tiles,
        staged_bytes=MAP_BYTES,
        in_bytes=MAP_BYTES,
        residual_bytes=0,
        out_bytes=POSITIONS * 96,
        weight_bytes=WEIGHTS,
        macs=CONV.macs,
        steps=steps,
        rows=28,
        width=28,
        passes=(Passes(WEIGHTS, 28 * 4, WEIGHTS / 3), Passes(MAP_BYTES, 3, MAP_BYTES)),
    )


def test_order_of_loops_decides_what_passes_again() -> None:
    found = work("qu8_qs8_s32_conv2d__avx512vnni", CONV, "w8a8", {**TILE, "order": "positions"})
    assert found.passes == (Passes(WEIGHTS, 28 * 4, WEIGHTS), Passes(MAP_BYTES, 1, MAP_BYTES))


def test_a_narrow_last_tile_and_unpadded_channels_cost_what_they_take() -> None:
    """Three blocks in tiles of two; of 20 input channels, five steps of four, though 32 are stored."""
    odd = Conv2dWorkload(1, 28, 28, 20, 48, (1, 1))
    found = work("qu8_qs8_s32_conv2d__avx512vnni", odd, "w8a8", TILE)
    assert (found.products, found.tiles) == (POSITIONS * 3 * 5, POSITIONS / 7 * 2)
    assert (found.weight_bytes, found.in_bytes) == (20 * 48, POSITIONS * 32)


def test_packed_weights_of_four_bits_are_half_a_byte() -> None:
    nibbles, whole = (
        work(f"qu8_{name}_s32_conv2d__avx512vnni", CONV, "w4a8", TILE) for name in ("qc4s", "qs8")
    )  # fmt: skip
    assert nibbles.weight_bytes == WEIGHTS / 2
    assert (nibbles.products, nibbles.macs) == (whole.products, whole.macs)


def test_weights_that_are_unpacked_first_are_read_whole() -> None:
    found = work("qu8_qc4s_s8_conv2d__avx512vnni", CONV, "w4a8", TILE)
    assert (found.weight_bytes, found.staged_bytes) == (WEIGHTS / 2, MAP_BYTES + WEIGHTS)
    assert found.passes[0] == Passes(WEIGHTS, 28 * 4, WEIGHTS / 3)


def test_two_bits_in_tables_of_64_bytes() -> None:
    """A table serves ten input channels, so a position has seven; an index vector of 64 bytes is 16 outputs."""
    knobs = {"columns": 7, "blocks": 2, "depth": 1, "band": 28, "order": "channels"}
    found = work("qu8_qs2_s32_lutconv2d__avx512vbmi", CONV, "w2a4", knobs)
    lookups, tables = TAPS * 7, BORDERED * 7 * 64
    assert (found.products, found.steps) == (POSITIONS * BLOCKS * lookups, lookups)
    assert found.loads == 28 * 4 * 3 * (7 + 2) * lookups
    assert (found.weight_bytes, found.staged_bytes) == (BLOCKS * lookups * 64, tables + BORDERED * 64)
    assert found.passes[1] == Passes(tables, 3, tables)


def test_one_bit_in_tables_of_64_bytes() -> None:
    """A table serves sixteen input channels."""
    knobs = {"columns": 7, "blocks": 2, "depth": 1, "band": 1, "order": "positions"}
    found = work("qu8_qs1_s32_lutconv2d__avx512vbmi", CONV, "w1a4", knobs)
    assert found.products == POSITIONS * BLOCKS * TAPS * 4
    assert found.weight_bytes == BLOCKS * TAPS * 4 * 64
    tables = BORDERED * 4 * 64
    assert found.passes[1] == Passes(tables, 1, tables / 30 * 4)  # three rows under the kernel, in a ring of four


@pytest.mark.parametrize(("family", "target", "rows"), [("avx2", "haswell", 2), ("neon", "cortex-a72", 1)])
def test_tables_of_16_bytes(family: str, target: str, rows: int) -> None:
    """A table serves four channels, 16 of them a position; a vector of weights holds both bits of 8 output channels.

    A kernel row meets 48 tables, six steps of eight; AVX2 looks two tables up at once.
    """
    knobs = {"columns": 7, "parts": 2, "sums": 4, "band": 28, "order": "channels"}
    found = work(f"qu8_qs2_s32_lutconv2d__{family}", CONV, "w2a4", knobs, target)
    lookups = 3 * 48 // rows
    assert (found.products, found.steps) == (POSITIONS * 12 * lookups, lookups)
    assert found.loads == 28 * 4 * 6 * (7 * lookups + 2 * lookups / 2)
    assert found.weight_bytes == WEIGHTS * 2 / 8
    row_bytes = 30 * 16 * 16 + 64  # one table more than the row has, in whole lines
    assert found.staged_bytes == 30 * row_bytes + BORDERED * 64
    assert found.passes[1] == Passes(30 * row_bytes, 6, 30 * row_bytes)


def test_three_bits_take_three_planes_of_tables() -> None:
    knobs = {"columns": 7, "parts": 1, "sums": 4, "band": 28, "order": "channels"}
    found = work("qu8_qs3_s32_lutconv2d__neon", CONV, "w3a4", knobs, "cortex-a72")
    assert found.products == POSITIONS * BLOCKS * 3 * (3 * 48)
    assert found.weight_bytes == WEIGHTS * 3 / 8


@pytest.mark.parametrize("planes", [1, 2])
def test_counted_bits(planes: int) -> None:
    """A word holds 32 channels: one row of 256 channels is 8 words, and a plane of bits looks at each of them."""
    knobs = {"columns": 1, "blocks": 2, "band": 1, "order": "channels"}
    found = work("qu2_qs1_s32_bitconv2d__avx512vpopcntdq", LINEAR, f"w1a{planes}", knobs)
    assert found.products == 4 * 8 * planes
    assert found.loads == 2 * 8 * planes + 4 * 8
    assert found.weight_bytes == 256 * 64 / 8
    assert found.staged_bytes == 64 * planes + 256  # the bits in whole lines, and the row that they come from


@pytest.mark.parametrize(("bits", "vectors"), [(4, 2), (2, 1), (1, 1)])
def test_packed_linear_layers(bits: int, vectors: int) -> None:
    """Four vectors of outputs in one tile; fields of a byte belong to different ones, so 8 / bits share a vector."""
    name = {4: "qc4u", 2: "qc2u", 1: "qc1u"}[bits]
    found = work(f"qu8_{name}_s32_linear__avx512vnni", LINEAR, f"w{bits}a8", {"parts": 4, "depth": 4, "ahead": 0})
    steps = 256 // 4
    assert (found.products, found.loads) == (4 * steps, steps + vectors * steps)
    assert found.weight_bytes == steps * vectors * 64
    assert (found.tiles, found.rows, found.width) == (1, 1, 1)


@pytest.mark.parametrize(("activation_bits", "pieces"), [(5, 1), (8, 2)])
def test_linear_layers_by_subsets(activation_bits: int, pieces: int) -> None:
    """A table of 128 bytes serves 20 input channels: 13 of them for 256."""
    family = "qu8_qs1_s32_lutlinear__avx512vbmi"
    found = work(family, LINEAR, f"w1a{activation_bits}", {"parts": 4, "depth": 1, "ahead": 0})
    assert found.products == 4 * 13 * pieces
    assert found.weight_bytes == 4 * 13 * 64
    assert found.staged_bytes == 13 * 20 + 16 + 13 * pieces * 128


def test_float_convolution() -> None:
    found = work("f32_conv2d__generic", CONV, "fp32", {"lanes": 16, "rows": 1, "cols": 7, "blocks": 2})
    steps, tiles = TAPS * 64, 28 * 4 * 3
    assert (found.products, found.loads) == (POSITIONS * BLOCKS * steps, tiles * 9 * steps)
    assert (found.weight_bytes, found.in_bytes, found.staged_bytes) == (4 * WEIGHTS, 4 * MAP_BYTES, 4 * MAP_BYTES)
    assert found.macs == CONV.macs


def test_pairs_of_bfloat16_halve_products_and_weights() -> None:
    knobs = {"lanes": 16, "rows": 1, "cols": 7, "blocks": 2}
    found = work("bf16_conv2d__avx512bf16", CONV, "bf16", knobs)
    plain = work("f32_conv2d__generic", CONV, "fp32", knobs)
    assert (found.products, found.weight_bytes) == (plain.products / 2, plain.weight_bytes / 2)


def test_a_dilated_input_is_counted_phase_by_phase() -> None:
    """Each of four phases has a quarter of the 4 x 4 taps; none meets a zero between two inputs."""
    w = Conv2dWorkload(1, 14, 14, 64, 64, (4, 4), padding=(2, 2, 2, 2), input_dilation=(2, 2))
    found = work("qu8_qs8_s32_conv2d__avx512vnni", w, "w8a8", TILE)
    steps = 4 * 64 // 4
    assert (found.rows, found.width) == (28, 28)
    assert (found.steps, found.products, found.macs) == (steps, POSITIONS * 4 * steps, w.macs)
    assert found.weight_bytes == 16 * 64 * 64
    assert found.passes[0] == Passes(16 * 64 * 64, 14 * 2, 16 * 64 * 64 / 4 / 2)


def test_depthwise_products_of_four_rows() -> None:
    """Two rows of outputs stand over four of inputs, one group of four: a column of the kernel takes two products."""
    w = Conv2dWorkload(1, 28, 28, 32, 32, (3, 3), padding=(1, 1, 1, 1), groups=32)
    found = work("qu8_qs8_s32_dwconv2d__avx512vnni", w, "w8a8", {"rows": 2, "columns": 7})
    assert found.products == 14 * 28 * 2 * (3 * 2)
    assert found.weight_bytes == 2 * 3 * 2 * 64
    assert found.staged_bytes == 14 * 30 * 2 * 64
    assert found.macs == w.macs


def test_operators_without_weights() -> None:
    pool = Pool2dWorkload("max", 1, 28, 28, 20, (3, 3), (2, 2), (1, 1, 1, 1), 14, 14)
    found = work("qu8_pool2d__generic", pool, "w8a8", {})
    assert (found.products, found.stores) == (14 * 14 * 2 * 9, 14 * 14 * 2)
    assert (found.in_bytes, found.out_bytes, found.weight_bytes) == (28 * 28 * 32, 14 * 14 * 32, 0)
    image = ConvertWorkload((1, 8, 8, 3), FLOAT_BITS, 8, channels_first=True)
    found = work("f32_qu8_convert__generic", image, "w8a8", {})
    assert (found.in_bytes, found.out_bytes, found.staged_bytes) == (8 * 8 * 3 * 4, 8 * 8 * 4, 8 * 8 * 3 * 4)
    found = work("qu8_f32_concat__generic", ConcatWorkload(64, (16, 48)), "w8a8", {})
    assert (found.tiles, found.stores, found.in_bytes) == (128, 128 * 2, 64 * 64)
    found = work("qu8_qu8_f32_multiply__generic", MultiplyWorkload((1, 8, 8, 16), True), "w8a8", {})
    assert found.in_bytes == 8 * 8 * 16 + 16
    slice_of = CopyWorkload((1, 8, 8, 16), (1, 4, 4, 32), (0,) * 4, (1, 2, 2, 1), (1, 4, 4, 16), (0, 0, 0, 8))
    found = work("qu8_copy__generic", slice_of, "w8a8", {})
    assert (found.in_bytes, found.out_bytes) == (4 * 4 * 16, 4 * 4 * 32)


def test_attention() -> None:
    """Two heads of 24 queries in tiles of 12, 32 keys of 16 features in two vectors, 16 value features in one."""
    place = (0, 0, 0, 0, 16, 1)
    shape = (1, 2, 24, 32, 16, 16, 0.25)
    w = AttentionWorkload(*shape, sources=((1, 32, 96),), q=place, k=place, v=place)
    found = work("f32_attention__generic", w, "fp32", {"rows": 12})
    tiles = 2 * 2
    assert found.products == tiles * 12 * (16 * 2 + 32 * 1) and found.macs == w.macs
    assert found.loads == tiles * (12 * (16 + 32) + 16 * 2 + 32)
    assert found.staged_bytes == 2 * 32 * 16 * 4  # keys; rows of values lie side by side as they are
    assert found.passes == (Passes(2 * 4096, 2, 4096),)
    assert (found.in_bytes, found.out_bytes) == (2 * (24 + 32 + 32) * 16 * 4, 2 * 24 * 16 * 4)


def test_attention_on_bytes() -> None:
    """The same in vectors of eight: every product takes two features or two keys; keys and values become words."""
    place = (0, 0, 0, 0, 16, 1)
    shape = (1, 2, 24, 32, 16, 16, 0.25)
    w = AttentionWorkload(*shape, sources=((1, 32, 96),), q=place, k=place, v=place)
    found = work("qu8_qu8_s32_attention__avx2", w, "w8a8", {"rows": 6})
    tiles = 2 * 4
    steps = 8 * 4 + 16 * 2
    assert found.products == tiles * 6 * steps and found.macs == w.macs
    assert found.loads == tiles * (6 * (8 * 2 + 16) + steps)
    assert found.passes == (Passes(2 * 2048, 4, 2048),)
    assert (found.in_bytes, found.out_bytes) == (2 * (24 + 32 + 32) * 16, 24 * 32)


def test_layer_normalisation() -> None:
    found = work("qu8_f32_layernorm__generic", NormWorkload((1, 7, 48), 1e-6), "w8a8", {"lanes": 16})
    assert (found.products, found.stores, found.tiles) == (7 * 3 * 3, 7 * 3 * 2, 7)
    assert (found.in_bytes, found.out_bytes, found.weight_bytes) == (7 * 48, 7 * 48, 2 * 48 * 4)
    assert found.staged_bytes == 7 * 48 * 4


CONVOLUTIONS = [
    CONV,
    dataclasses.replace(CONV, in_channels=20, out_channels=40, residual=True),
    Conv2dWorkload(2, 9, 11, 30, 30, (3, 3), (2, 2), (1, 1, 1, 1), groups=30),
    Conv2dWorkload(1, 9, 11, 48, 32, (3, 3), (1, 1), (1, 1, 1, 1), groups=2),
    Conv2dWorkload(1, 7, 7, 24, 24, (4, 4), padding=(2, 2, 2, 2), input_dilation=(2, 2)),
    Conv2dWorkload(1, 1, 2, 70, 33, (1, 1)),
    LINEAR,
]
FEATURES = [features(resolve(target)) for target in ("znver4", "haswell", "alderlake", "neoverse-n2")]


def convolution_kernels(threads: int) -> list[Kernel]:
    precisions = [
        Precision.parse(text) for text in ("fp32", "bf16", "fp16", "w8a8", "w4a8", "w3a4", "w2a4", "w1a4", "w1a1")
    ]
    return [
        kernel
        for w in CONVOLUTIONS
        for isa in FEATURES
        for p in precisions
        for kernel in candidates(Request(w, p, FLOAT_BITS if p.is_float else 8, isa, threads))
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_convolution_moves_its_arrays_and_makes_all_products(threads: int) -> None:
    kernels = convolution_kernels(threads)
    convolutions = {f.name for f in families() if f.workload_type is Conv2dWorkload}
    assert {k.family.name for k in kernels} == convolutions
    for kernel in kernels:
        found, w = kernel.work, kernel.request.workload
        assert isinstance(w, Conv2dWorkload)
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in kernel.buffers]
        first_constant = 2 if w.residual else 1
        assert (found.in_bytes, found.out_bytes, found.weight_bytes) == (sizes[0], sizes[-1], sizes[first_constant])
        assert found.residual_bytes == (sizes[1] if w.residual else 0)
        least = w.macs / 4 if "winograd" in kernel.family.name else w.macs
        assert found.macs >= least and found.products > 0 and found.loads > 0 and found.stores > 0
        assert all(p.times >= 1 and p.held_bytes > 0 for p in found.passes)
