"""Bit-serial convolutions equal the definition bit for bit: shapes, tails, ends of ranges, every epilogue and tile."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from mpq_testing import low_bit
from mpq_testing.low_bit import make_operands
from tvm_mpq.kernels import Family, Kernel, Request, families, fitting
from tvm_mpq.kernels.packing.bit_words import WORD, BitShape, pack_bits, word_shape
from tvm_mpq.numerics.affine import quantize
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
W1A1, W1A2 = Precision(1, 1), Precision(1, 2)
MCPU = "icelake-server"
check = functools.partial(low_bit.check, mcpu=MCPU)
SAME = (1, 1, 1, 1)
NEEDED = frozenset({"avx512f", "avx512bw", "avx512vpopcntdq"})
counts_bits = pytest.mark.isa(*sorted(NEEDED))

SHAPES = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 17, (1, 1)),
    C(1, 7, 7, 10, 16, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 16, 10, (5, 5), (2, 2), (2, 2, 2, 2)),
    C(1, 7, 7, 17, 3, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 7, 7, 63, 63, (3, 3), (1, 1), SAME, activation="relu"),
    C(1, 13, 9, 64, 7, (3, 1), (1, 2), (1, 0, 1, 0)),
    C(1, 1, 1, 65, 64, (3, 3), (1, 1), SAME),
    C(3, 5, 5, 100, 1, (1, 1)),
    C(1, 7, 7, 129, 40, (5, 5), (1, 1), (2, 2, 2, 2)),
    C(1, 1, 197, 20, 40, (1, 1), residual=True),
    C(2, 9, 9, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3), residual=True, activation="relu"),
    C(1, 7, 7, 10, 33, (1, 1), (2, 1), (1, 0, 0, 2)),
    C(1, 9, 7, 12, 16, (2, 3), (3, 3), (0, 0, 0, 1)),
    C(1, 4, 1, 5, 17, (3, 3), (5, 5), (4, 4, 4, 0)),
    C(1, 56, 56, 8, 4, (3, 3), (1, 1), SAME),
    C(2, 4, 4, 48, 32, (3, 3), (1, 1), SAME),
]
ONE_ROW = [C(1, 1, 1, 129, 100, (1, 1)), C(1, 1, 1, 17, 33, (1, 1), residual=True), C(1, 1, 1, 64, 16, (1, 1))]
TABLES = [
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 4, 5, 20, 3, (1, 1), residual=True, activation="silu"),
]
THREADED = C(1, 21, 20, 64, 40, (3, 3), (1, 1), SAME)
"""Large enough to be worth two threads."""


def family() -> Family:
    (row,) = (f for f in families() if f.name == "qu2_qs1_s32_bitconv2d__avx512vpopcntdq")
    return row


def kernel_of(request: Request, turn: int = 0, **changed: object) -> Kernel:
    assert family().fits(request)
    space = family().knob_space(request)
    return Kernel(request, family(), {**space[turn % len(space)], **changed})


@counts_bits
@pytest.mark.parametrize("part", range(3))
def test_equals_reference(part: int, rng: np.random.Generator) -> None:
    """Tiles, bands of one row, of a few and of the whole map, and bytes or floats as output take turns."""
    for turn, w in list(enumerate(SHAPES))[part::3]:
        request = Request(w, W1A1, (8, 32)[turn // 3 % 2], NEEDED)
        check(kernel_of(request, turn, band=(1, 3, 1000)[turn // 3 % 3]), rng)


@counts_bits
@pytest.mark.parametrize("precision", [W1A1, W1A2], ids=str)
def test_one_row_equals_reference(precision: Precision, rng: np.random.Generator) -> None:
    for turn, w in enumerate(ONE_ROW):
        check(kernel_of(Request(w, precision, (8, 32)[turn % 2], NEEDED), turn), rng, (None, 1, -1))


@counts_bits
@pytest.mark.parametrize("band", [1, 3, 1000])
def test_two_threads_equal_reference(band: int, rng: np.random.Generator) -> None:
    kernel = kernel_of(Request(THREADED, W1A1, 8, NEEDED, threads=2), band=band)
    assert "T.parallel(2)" in kernel.build().script()
    check(kernel, rng)


@counts_bits
@pytest.mark.parametrize("w", TABLES, ids=["hard_swish", "silu"])
def test_table_activation_equals_reference(w: C, rng: np.random.Generator) -> None:
    check(kernel_of(Request(w, W1A1, 8, NEEDED)), rng)


@counts_bits
@pytest.mark.parametrize("sign", [1, -1])
def test_ends_of_the_ranges(sign: int, rng: np.random.Generator) -> None:
    """All weights of one sign, activations at the ends of theirs, the border at the other one."""
    check(kernel_of(Request(C(1, 5, 5, 40, 20, (3, 3), (1, 1), SAME), W1A1, 32, NEEDED)), rng, (sign,))


@counts_bits
def test_every_candidate_equals_reference(rng: np.random.Generator) -> None:
    request = Request(C(1, 9, 9, 48, 80, (3, 3), (1, 1), SAME), W1A1, 8, NEEDED)
    space = family().knob_space(request)
    assert 3 <= len(space) <= 12
    for turn in range(len(space)):
        check(kernel_of(request, turn), rng)


@counts_bits
def test_a_channel_of_zeros_gives_its_bias(rng: np.random.Generator) -> None:
    """One bit has no zero: the channel's scale makes its sums vanish, in the kernel as in the definition."""
    w = C(1, 7, 7, 20, 17, (3, 3), (1, 1), SAME)
    kernel = kernel_of(Request(w, W1A1, 8, NEEDED))
    operands = make_operands(w, 1, 8, rng, None)
    assert operands.weight is not None and operands.bias is not None and operands.output is not None
    operands.weight[5] = 0
    x = rng.integers(0, 2, (1, 7, 7, 20)).astype(np.uint8)
    got = low_bit.compiled(kernel, MCPU)(operands, [x])
    np.testing.assert_array_equal(got, evaluate(w, W1A1, 8, operands, [x]))
    assert (got[..., 5] == quantize(operands.bias[5], operands.output)).all()


@pytest.mark.parametrize("channels, kernel_width", [(1, 3), (17, 3), (40, 1), (64, 2)])
def test_differing_bits_are_the_sum_of_products(channels: int, kernel_width: int, rng: np.random.Generator) -> None:
    """Counting in plain loops over the packed words gives the sum of products."""
    w = C(1, 1, kernel_width, channels, 20, (1, kernel_width))
    shape = BitShape.of(w)
    weight = rng.choice([-1, 1], (20, 1, kernel_width, channels)).astype(np.int8)
    packed = pack_bits(weight, shape)
    assert packed.shape == word_shape(shape, 20) and packed.dtype == np.int32
    x = rng.integers(0, 2, (kernel_width, channels))
    bits = np.zeros((kernel_width, shape.tables * 16), np.int64)
    bits[:, :channels] = x
    bits = np.pad(bits.reshape(-1), (0, shape.words * WORD - bits.size))
    for o in (0, 7, 19):
        differing = 0
        for word in range(shape.words):
            activations = sum(int(b) << i for i, b in enumerate(bits[word * WORD :][:WORD]))
            differing += (activations ^ (int(packed[o // 16, word, o % 16]) & 0xFFFFFFFF)).bit_count()
        assert (weight[o] > 0).sum() - differing == int((x * weight[o, 0]).sum())


def test_refuses_what_it_cannot_do() -> None:
    w = C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME)
    good = Request(w, W1A1, 8, NEEDED)
    assert family().fits(good)
    refused = [
        dataclasses.replace(good, precision=Precision(1, 3)),
        dataclasses.replace(good, precision=W1A2),  # sums are looked up faster
        dataclasses.replace(good, precision=Precision(2, 1)),
        dataclasses.replace(good, features=NEEDED - {"avx512vpopcntdq"}),
        dataclasses.replace(good, workload=dataclasses.replace(w, groups=4)),
        dataclasses.replace(good, workload=dataclasses.replace(w, dilation=(2, 2))),
        dataclasses.replace(good, workload=dataclasses.replace(w, activation="gelu"), out_bits=32),
        dataclasses.replace(good, workload=C(1, 1, 2, 64, 64, (1, 1)), precision=W1A2),
    ]
    assert not [r.key for r in refused if family().fits(r)]


def test_counting_comes_before_looking_up() -> None:
    wide = NEEDED | {"avx2", "avx512vnni", "avx512vbmi"}
    for w, precision in ((SHAPES[6], W1A1), (ONE_ROW[0], W1A1), (ONE_ROW[0], W1A2)):
        assert fitting(Request(w, precision, 8, wide))[0] is family()
