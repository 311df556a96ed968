"""Convolutions on AVX2: how many products 16 bits hold, every tile, and the greatest sums there are."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tvm

from mpq_testing import low_bit
from mpq_testing.assembly import inner_loops
from mpq_testing.slowly import SLOW, slow_but
from tvm_mpq.kernels import registry
from tvm_mpq.kernels.families import dense  # noqa: F401  registers the rows
from tvm_mpq.kernels.frames import convolution
from tvm_mpq.kernels.frames.convolution import ConvolutionFrame
from tvm_mpq.kernels.machines.avx2 import Bytes, Words, bytes_depth
from tvm_mpq.kernels.machines.avx2_depthwise import TapPairs
from tvm_mpq.kernels.registry import Family, Kernel, Request, families, fitting
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
AVX2 = frozenset({"avx2"})
avx2 = pytest.mark.isa("avx2", "fma")
check = functools.partial(low_bit.check, mcpu="haswell")


def request(w: C, precision: str, out_bits: int = 8, threads: int = 1) -> Request:
    return Request(w, Precision.parse(precision), out_bits, AVX2, threads)


def family(kind: str) -> Family:
    """`s16` defers widening, `s32` widens all operands."""
    (row,) = (f for f in families() if f.name == f"qu8_qs8_{kind}_conv2d__avx2")
    return row


def sums(knobs: dict[str, Any]) -> int:
    """Vectors of 8 output channels of a tile."""
    return int(knobs["rows"] * knobs["columns"] * knobs["blocks"] * 2)


def test_depth_holds_at_its_ends() -> None:
    for weight_bits in range(1, 9):
        for activation_bits in range(1, 9):
            pair = 2 * (2**activation_bits - 1) * weight_range(weight_bits)[1]
            depth = Bytes.limit(weight_bits, activation_bits)
            assert depth * pair <= 32767 < (depth + 1) * pair
    limits = [Bytes.limit(bits, 8) for bits in (8, 7, 6, 5, 4, 3)]
    assert limits == [0, 1, 2, 4, 9, 21]


@pytest.mark.parametrize(
    ("w", "precision", "depth"),
    [
        (C(1, 8, 8, 64, 16, (3, 3), (1, 1), SAME), "w8a8", 0),
        (C(1, 8, 8, 64, 16, (3, 3), (1, 1), SAME), "w7a8", 1),
        (C(1, 8, 8, 64, 16, (3, 3), (1, 1), SAME), "w6a8", 2),
        (C(1, 8, 8, 64, 16, (3, 3), (1, 1), SAME), "w5a8", 4),
        (C(1, 8, 8, 64, 16, (3, 3), (1, 1), SAME), "w4a8", 8),
        (C(1, 8, 8, 48, 16, (3, 3), (1, 1), SAME), "w4a8", 9),
        (C(1, 8, 8, 48, 16, (3, 3), (1, 1), SAME), "w2a4", 9),
        (C(1, 8, 8, 3, 16, (3, 3), (1, 1), SAME), "w6a8", 1),
        (C(1, 8, 8, 3, 16, (7, 7), (1, 1), SAME), "w4a8", 7),
        (C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME, (2, 2)), "w4a8", 4),
        (C(1, 8, 8, 24, 16, (1, 1)), "w4a8", 6),
    ],
)
def test_depth_divides_the_steps(w: C, precision: str, depth: int) -> None:
    assert bytes_depth(request(w, precision)) == depth


DEFERRED = ["w7a8", "w6a8", "w5a8", "w4a8", "w3a8", "w8a7", "w7a7", "w4a5", "w2a4", "w1a1"]


@avx2
@pytest.mark.parametrize("precision", slow_but(DEFERRED, "w7a8", "w5a8", "w4a8", "w8a7", "w2a4", "w1a1"))
def test_deferred_widening_at_the_ends(precision: str, rng: np.random.Generator) -> None:
    """All activations at one end, all weights at one: sums in 16 bits are as great as they can be, in every tile."""
    r = request(C(1, 5, 5, 48, 20, (3, 3), (1, 1), SAME), precision, 32)
    space = family("s16").knob_space(r)
    for knobs in (space[0], max(space, key=sums)):
        check(Kernel(r, family("s16"), knobs), rng, (1, -1))


@avx2
def test_widened_operands_at_the_ends(rng: np.random.Generator) -> None:
    r = request(C(1, 5, 5, 48, 20, (3, 3), (1, 1), SAME), "w8a8", 32)
    check(Kernel(r, family("s32"), family("s32").knob_space(r)[0]), rng, (1, -1))


WIDENED = [
    C(1, 1, 1, 40, 33, (1, 1)),
    C(1, 1, 3, 17, 24, (1, 1), residual=True),
    C(1, 1, 4, 17, 24, (1, 1), activation="relu"),
    C(3, 5, 7, 3, 10, (1, 1)),
    C(2, 9, 7, 33, 20, (1, 1), (2, 2)),
    C(2, 7, 7, 24, 40, (3, 3), (1, 1), SAME, residual=True),
    C(1, 13, 9, 5, 33, (5, 3), (2, 1), (2, 0, 1, 3), (2, 3)),
    C(1, 15, 15, 3, 20, (7, 7), (2, 2), (3, 3, 3, 3)),
    C(1, 6, 7, 12, 36, (3, 3), (1, 1), SAME, (1, 1), 3),
]


@avx2
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("w", WIDENED, ids=lambda w: w.key)
def test_inputs_are_widened_as_they_are_copied(w: C, threads: int, rng: np.random.Generator) -> None:
    """With and without a border, for few positions (weights in 8 bits) and many, at both ends of the ranges."""
    r = request(w, "w8a8", 32 if w.activation == "none" and not w.residual else 8, threads)
    row = fitting(r)[0]
    assert row.name.startswith("qu8_qs8_s32_")
    check(Kernel(r, row, row.knob_space(r)[0]), rng, (None, 1, -1))


DEPTHWISE = [
    C(1, 7, 9, 16, 16, (3, 3), (1, 1), SAME, (1, 1), 16),
    C(2, 9, 10, 40, 40, (3, 3), (2, 2), SAME, (1, 1), 40, residual=True),
    C(1, 11, 9, 33, 33, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 33, activation="relu"),
    C(1, 12, 12, 24, 24, (7, 7), (2, 1), (3, 3, 3, 3), (1, 1), 24),
    C(1, 9, 11, 20, 20, (4, 2), (1, 1), (1, 0, 2, 1), (2, 1), 20),
    C(1, 6, 40, 32, 32, (1, 5), (1, 1), (0, 2, 0, 2), (1, 1), 32),
]


@avx2
@pytest.mark.parametrize("w", slow_but(DEPTHWISE, 0, 1, 3, 4, by_index=True), ids=lambda w: w.key)
def test_depthwise_by_pairs_of_rows(w: C, rng: np.random.Generator) -> None:
    """Odd and even kernels, written out and in a loop, at both ends of the ranges; every tile, bytes and floats."""
    for threads in (1, 2):
        r = request(w, "w8a8", 8, threads)
        row = next(f for f in fitting(r) if f.name == "qu8_qs8_s32_dwconv2d__avx2")
        for knobs in row.knob_space(r)[:: 3 if threads == 1 else 6]:
            check(Kernel(r, row, knobs), rng, (None, 1, -1))
    if not w.residual:
        r = request(w, "w8a8", 32)
        check(Kernel(r, fitting(r)[0], fitting(r)[0].knob_space(r)[0]), rng, (None, 1, -1))


@avx2
@pytest.mark.parametrize(
    ("w", "precision"),
    [
        pytest.param(w, precision, id=f"{w.key}-{precision}", marks=[] if precision == quick else [SLOW])
        for w, quick in ((DEPTHWISE[1], "w8a8"), (DEPTHWISE[4], None), (WIDENED[5], "w7a8"), (WIDENED[6], "w8a8"))
        for precision in ("w8a8", "w7a8")
    ],
)
def test_bands_of_rows_are_copied_as_they_are_needed(
    w: C, precision: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache so small that each band is a row or two; threads have bands of their own."""
    for cache in (1, 4000):
        monkeypatch.setattr(convolution, "_BAND_BYTES", cache)
        registry._built.cache_clear()  # what was built for another cache
        for threads in (1, 3):
            r = request(w, precision, threads=threads)
            row = next(f for f in fitting(r) if "_s32_" in f.name and f.name.endswith("conv2d__avx2"))
            knobs = {**row.knob_space(r)[0], "order": "positions"}
            frame = ConvolutionFrame(r, knobs, TapPairs(w.kernel) if w.groups > 1 else Words(99))
            assert (
                frame.band < frame.counts["h"] and frame.scratch < frame.g.rows * frame.g.row_width * frame.g.in_cells
            )
            low_bit.check(Kernel(r, row, knobs), rng, (None, 1), mcpu="haswell")


@pytest.mark.parametrize(("size", "step"), [(14, {"vpmaddwd", "vpaddd"}), (1, {"vpmaddwd", "vpaddd", "vpmovsxbw"})])
def test_steps_only_multiply_and_add(size: int, step: set[str]) -> None:
    """Beside loads; the code is LLVM's, so whichever CPU runs the test."""
    r = request(C(1, size, size, 256, 64, (1, 1)), "w8a8")
    kernel = Kernel(r, family("s32"), family("s32").knob_space(r)[0])
    target = tvm.target.Target({"kind": "llvm", "mcpu": "haswell"})
    module = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=target)
    loops = inner_loops(module.mod.inspect_source("s"))
    loop = min((each for each in loops if any(line.startswith("vpmaddwd") for line in each)), key=len)
    assert step <= {line.split()[0] for line in loop} <= step | {"vmovdqa", "vmovdqu", "vpbroadcastd"}
    assert not [line for line in loop if line.endswith(")")], "something is stored"


@pytest.mark.parametrize(
    ("columns", "threads", "tiles"), [(4, 1, [(4, 1), (3, 1)]), (6, 1, [(4, 1), (3, 1)]), (7, 1, [(7, 1)])]
)
def test_tiles_of_columns_do_not_overlap(columns: int, threads: int, tiles: list[tuple[int, int]]) -> None:
    r = request(C(1, 7, 7, 64, 64, (3, 3), (1, 1), SAME), "w8a8", threads=threads)
    frame = ConvolutionFrame(r, {"rows": 1, "columns": columns, "blocks": 1, "order": "channels"}, Words(49))
    assert frame.column_tiles == tiles
    assert frame.work.products == 49 * 64 / 8 * 9 * 64 / 2  # two channels a product


@avx2
@pytest.mark.parametrize("precision", slow_but(["w8a8", "w7a8", "w5a8", "w4a8"], "w8a8", "w4a8"))
def test_every_candidate_equals_reference(precision: str, rng: np.random.Generator) -> None:
    r = request(C(1, 9, 10, 48, 50, (3, 3), (1, 1), SAME, residual=True), precision, threads=2)
    row = family("s32" if precision == "w8a8" else "s16")
    space = row.knob_space(r)
    assert 3 <= len(space) <= 6
    for knobs in space:
        check(Kernel(r, row, knobs), rng)


@avx2
@pytest.mark.parametrize(
    ("w", "precision"),
    [
        (C(1, 13, 9, 24, 33, (1, 1)), "w4a8"),
        (C(2, 9, 9, 3, 20, (7, 7), (2, 2), (3, 3, 3, 3)), "w4a8"),
        (C(1, 6, 1, 3, 20, (3, 3), (2, 1), SAME), "w5a8"),
        (C(1, 13, 9, 16, 33, (5, 3), (2, 1), (2, 0, 1, 3), (2, 3), activation="relu"), "w3a8"),
        (C(1, 7, 1, 144, 17, (3, 1), (1, 1), (1, 0, 1, 0), residual=True), "w4a8"),
    ],
    ids=["filled up", "stem", "one column", "dilated", "tap by tap"],
)
def test_depths_that_tails_and_taps_allow(w: C, precision: str, rng: np.random.Generator) -> None:
    r = request(w, precision)
    check(Kernel(r, family("s16"), family("s16").knob_space(r)[0]), rng, (None, 1))


def test_tiles_fit_the_registers() -> None:
    """Sums of one step that go to memory and back were measured to take up to three times as long."""
    for precision, depth in (("w7a8", 1), ("w5a8", 4), ("w4a8", 8)):
        r = request(C(1, 14, 14, 64, 96, (3, 3), (1, 1), SAME), precision)
        assert bytes_depth(r) == depth
        assert max(map(sums, family("s16").knob_space(r))) <= 12


def test_deferred_sums_fill_the_registers_where_weights_do_not_fit_the_cache() -> None:
    """Those of 32 bits wait in memory: more positions share each weight that comes from the second-level cache."""
    r = request(C(1, 14, 14, 512, 512, (3, 3), (2, 2), SAME), "w4a8")
    knobs = family("s16").knob_space(r)[0]
    assert sums(knobs) == 8 and knobs["blocks"] == 1
    for size, ins, outs in ((14, 64, 256), (56, 24, 144)):  # the odd ninth block of 144 channels is a tile of its own
        r = request(C(1, size, size, ins, outs, (1, 1)), "w4a8")
        knobs = family("s16").knob_space(r)[0]
        assert (knobs["columns"], knobs["blocks"]) == (1, 2), "four sums of one position end fastest"


def test_long_deferred_sums_do_not_wait_for_loads() -> None:
    """Two sums read three vectors for two products, more than the first-level cache gives in that time."""
    for w in (C(1, 56, 56, 128, 128, (3, 3), (2, 2), SAME), C(1, 14, 14, 1024, 256, (1, 1))):
        r = request(w, "w4a8")
        assert sums(family("s16").knob_space(r)[0]) == 4


@pytest.mark.parametrize("precision", ["w8a8", "w7a8", "w4a8"])
def test_weights_of_a_block_are_one_stream(precision: str) -> None:
    """Two streams would often be a multiple of 4096 bytes apart: the same sets of a cache, at half the speed."""
    r = request(C(1, 9, 9, 64, 32, (1, 1)), precision)
    machine = Words(81) if precision == "w8a8" else Bytes(bytes_depth(r))
    weight = np.arange(32, dtype=np.int8).repeat(64).reshape(32, 1, 1, 64)  # each channel holds its number
    steps = 64 // machine.channels
    packed = np.ascontiguousarray(machine.pack(weight))
    assert packed.nbytes == 2 * machine.block_bytes(steps) and packed.shape == machine.packed_shape(2, steps)
    stream = packed.reshape(2, -1).view(np.int16 if precision == "w8a8" else np.int8)
    vectors = stream.reshape(2, steps, 2, -1)
    assert vectors[0, 0, 0].nbytes == machine.step_bytes == machine.vector_bytes(steps)
    assert vectors[0, 0].nbytes == machine.stride_bytes
    for block in range(2):
        for half in range(2):
            assert set(vectors[block, :, half].flat) == set(range(16 * block + 8 * half, 16 * block + 8 * half + 8))
