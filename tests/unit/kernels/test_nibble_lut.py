"""Look-up convolutions with 16 entries equal the definition bit for bit: shapes, tails, ends of ranges, every tile."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tvm

from mpq_testing import low_bit
from mpq_testing.assembly import inner_loops
from mpq_testing.slowly import SLOW
from tvm_mpq.kernels import Family, Kernel, Request, families, fitting
from tvm_mpq.kernels.machines.avx2 import Avx2Nibbles
from tvm_mpq.kernels.machines.neon import NeonNibbles
from tvm_mpq.kernels.machines.nibbles import NibbleMachine
from tvm_mpq.kernels.packing.nibble_indices import (
    CODINGS,
    GROUP,
    NibbleShape,
    greatest,
    nibble_shape,
    pack_nibbles,
    part_count,
    sums_limit,
)
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
check = functools.partial(low_bit.check, mcpu="haswell")
SAME = (1, 1, 1, 1)
AVX2 = frozenset({"avx2"})
avx2 = pytest.mark.isa("avx2", "fma")

SHAPES = [
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
    C(1, 56, 56, 16, 4, (3, 3), (1, 1), SAME),
    C(1, 7, 7, 63, 24, (5, 5), (1, 1), (2, 2, 2, 2)),
    *(C(1, 1, rows, 70, 100, (1, 1)) for rows in (1, 2, 3)),
]
TABLES = [
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 4, 5, 20, 3, (1, 1), residual=True, activation="silu"),
]


def family(bits: int) -> Family:
    (row,) = (f for f in families() if f.name == f"qu8_qs{bits}_s32_lutconv2d__avx2")
    return row


def kernel_of(request: Request, turn: int = 0, **changed: object) -> Kernel:
    row = family(request.precision.weight_bits)
    assert row.holds(request)
    space = row.knob_space(request)
    return Kernel(request, row, {**space[turn % len(space)], **changed})


@avx2
@pytest.mark.parametrize(
    ("precision", "out_bits", "threads"),
    [  # those that are quick have every workload together, and half of them at each number of bits
        ("w2a4", 8, 1),
        ("w2a5", 32, 2),
        ("w1a4", 8, 2),
        ("w1a2", 32, 1),
        pytest.param("w2a4", 8, 2, marks=SLOW),
        pytest.param("w2a5", 32, 1, marks=SLOW),
        pytest.param("w1a4", 8, 1, marks=SLOW),
        pytest.param("w1a2", 32, 2, marks=SLOW),
    ],
)
def test_equals_reference(precision: str, out_bits: int, threads: int, rng: np.random.Generator) -> None:
    """Every workload at one and at two bits; bands of one row, of a few and of the whole map take turns."""
    p = Precision.parse(precision)
    for turn, w in enumerate(SHAPES):
        if (turn + out_bits // 32 + 2 * threads) % 4:
            continue
        request = Request(w, p, out_bits, AVX2, threads)
        check(kernel_of(request, turn, band=(1, 3, 1000)[(turn + threads) % 3]), rng)


@avx2
@pytest.mark.parametrize("precision", ["w2a4", "w1a3"])
@pytest.mark.parametrize("w", TABLES, ids=["hard_swish", "silu"])
def test_table_activation_equals_reference(w: C, precision: str, rng: np.random.Generator) -> None:
    check(kernel_of(Request(w, Precision.parse(precision), 8, AVX2)), rng)


@avx2
@pytest.mark.parametrize("activation_bits", [2, 3, 4, 5])
@pytest.mark.parametrize("weight_bits", [1, 2])
def test_ends_of_the_ranges(weight_bits: int, activation_bits: int, rng: np.random.Generator) -> None:
    """All activations at one end, all weights at one: the greatest sums that bytes must hold."""
    w = C(1, 5, 5, 40, 20, (3, 3), (1, 1), SAME)
    request = Request(w, Precision(weight_bits, activation_bits), 32, AVX2)
    check(kernel_of(request, sums=sums_limit(activation_bits)), rng, (1, -1))


@avx2
@pytest.mark.parametrize("precision", ["w2a5", "w1a5"])
@pytest.mark.parametrize("w", [C(1, 2, 4, 5000, 16, (1, 1)), C(1, 5, 4, 1000, 16, (3, 3))], ids=["channels", "rows"])
def test_counters_move_before_they_overflow(w: C, precision: str, rng: np.random.Generator) -> None:
    """Reductions longer than 16 bits hold, within one row of the kernel and over its rows."""
    p = Precision.parse(precision)
    tables = w.kernel[0] * w.kernel[1] * -(-w.in_channels // GROUP) // 2
    assert tables > CODINGS[p.weight_bits].lookups_limit(p.activation_bits)
    check(kernel_of(Request(w, p, 32, AVX2)), rng, (1, -1))


@avx2
@pytest.mark.parametrize("precision", ["w2a4", "w1a4"])
def test_every_candidate_equals_reference(precision: str, rng: np.random.Generator) -> None:
    request = Request(C(1, 9, 9, 48, 80, (3, 3), (1, 1), SAME), Precision.parse(precision), 8, AVX2)
    space = family(request.precision.weight_bits).knob_space(request)
    assert 3 <= len(space) <= 12
    for turn in range(len(space)):
        check(kernel_of(request, turn), rng)


def test_bounds_hold_at_their_ends() -> None:
    for bits in (2, 3, 4, 5):
        assert greatest(bits) == GROUP * (2**bits - 1)
        assert sums_limit(bits) >= 2 and sums_limit(bits) * greatest(bits) <= 255
        for coding in CODINGS.values():
            limit = coding.lookups_limit(bits)
            assert limit * coding.beside * greatest(bits) <= 65535 < (limit + 1) * coding.beside * greatest(bits)
    assert sums_limit(6) == 0


@pytest.mark.parametrize("bits", CODINGS)
def test_bits_give_the_weights(bits: int) -> None:
    coding = CODINGS[bits]
    weights = np.array([-1, 1] if bits == 1 else range(-coding.offset, coding.offset + 1), np.int8)
    worth = coding.bits(weights).sum(axis=-1) @ (1 << np.arange(coding.planes))
    np.testing.assert_array_equal(coding.factor * worth - coding.offset, weights)


@pytest.mark.parametrize("machine", [Avx2Nibbles(), NeonNibbles()], ids=["avx2", "neon"])
@pytest.mark.parametrize("bits", CODINGS)
def test_nibbles_select_the_subsets(bits: int, machine: NibbleMachine, rng: np.random.Generator) -> None:
    """A look-up in plain loops over the packed nibbles gives the sum of products."""
    w, sums, coding = C(1, 1, 1, 17, 20, (1, 3), (1, 1), (0, 1, 0, 1)), 4, CODINGS[bits]
    shape, parts = NibbleShape.of(w), part_count(Request(w, Precision(bits, 4), 8, AVX2))
    choices = [-1, 1] if bits == 1 else list(range(-coding.offset, coding.offset + 1))
    weight = rng.choice(choices, (20, 1, 3, 17)).astype(np.int8)
    packed = pack_nibbles(weight, shape, coding, parts, sums, machine.byte_channels)
    assert packed.shape == nibble_shape(shape, coding, parts, sums)
    x = np.zeros((3, shape.tables * GROUP), np.int64)
    x[:, :17] = rng.integers(0, 16, (3, 17))
    flat = np.zeros((4 * packed.shape[2], GROUP), np.int64)
    flat[: 3 * shape.tables] = x.reshape(-1, GROUP)
    width = coding.part_channels
    for o in (0, 7, 8, 19):
        channel, total = o % width, 0
        places = [2 * channel, 2 * channel + 1] if coding.beside == 2 else [machine.byte_channels.index(channel)]
        for plane, vector, row, place in itertools.product(*map(range, packed.shape[1:4]), places):
            byte = int(packed[o // width, plane, vector, row, place])
            for nibble, entry in enumerate((byte & 15, byte >> 4)):
                activations = flat[4 * vector + 2 * nibble + row]
                total += sum(int(activations[j]) for j in range(GROUP) if entry >> j & 1) << plane
        expected = int((x[:, :17] * weight[o, 0]).sum())
        assert coding.factor * total - coding.offset * int(x.sum()) == expected


@pytest.mark.parametrize("bits", [1, 2])
def test_refuses_what_it_cannot_do(bits: int) -> None:
    w = C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME)
    good = Request(w, Precision(bits, 4), 8, AVX2)
    assert family(bits).fits(good)
    refused = [
        dataclasses.replace(good, precision=Precision(bits, 6)),
        dataclasses.replace(good, precision=Precision(3, 4)),
        dataclasses.replace(good, features=frozenset()),
        dataclasses.replace(good, workload=dataclasses.replace(w, groups=4)),
        dataclasses.replace(good, workload=dataclasses.replace(w, dilation=(2, 2))),
        dataclasses.replace(good, workload=dataclasses.replace(w, activation="gelu"), out_bits=32),
        dataclasses.replace(good, workload=C(1, 8, 8, 80_000, 16, (1, 1)), precision=Precision(bits, 4)),
    ]
    assert not [r.key for r in refused if family(bits).fits(r)]


@pytest.mark.parametrize("bits", [1, 2])
def test_a_wider_permute_comes_first(bits: int) -> None:
    narrow = Request(C(1, 8, 8, 128, 128, (1, 1)), Precision(bits, 4), 8, AVX2)
    assert fitting(narrow)[0] is family(bits)
    wide = AVX2 | {"avx512f", "avx512bw", "avx512vnni", "avx512vbmi"}
    assert fitting(dataclasses.replace(narrow, features=wide))[0] is not family(bits)


@pytest.mark.parametrize(
    ("w", "bits", "served"),
    [
        (C(1, 14, 14, 96, 576, (1, 1)), 2, True),
        (C(1, 14, 14, 95, 576, (1, 1)), 2, False),
        (C(1, 14, 14, 144, 48, (1, 1)), 2, False),
        (C(1, 14, 14, 144, 49, (1, 1)), 2, True),
        (C(1, 14, 14, 16, 32, (3, 3), (2, 2), SAME), 2, True),
        (C(1, 1, 1, 64, 16, (1, 1)), 2, True),
        (C(1, 14, 14, 16, 16, (1, 1)), 1, True),
    ],
)
def test_short_sums_of_two_bits_are_left_to_products(w: C, bits: int, served: bool) -> None:
    assert family(bits).fits(Request(w, Precision(bits, 4), 8, AVX2)) is served


def test_tables_are_built_within_lanes() -> None:
    """Each table's summands stand in its own 16 bytes: a permute across lanes took as long as building half a table."""
    r = Request(C(1, 14, 14, 512, 128, (1, 1)), Precision.parse("w2a4"), 8, AVX2)
    row = fitting(r)[0]
    assert row.name == "qu8_qs2_s32_lutconv2d__avx2"
    target = tvm.target.Target({"kind": "llvm", "mcpu": "haswell"})
    module = tvm.compile(tvm.IRModule({"main": Kernel(r, row, row.knob_space(r)[0]).build()}), target=target)
    loops = [[line.split()[0] for line in each] for each in inner_loops(module.mod.inspect_source("s"))]
    (building,) = (each for each in loops if "vpshufb" in each and "vpmaddubsw" not in each)
    assert building.count("vpshufb") == 4 and not {"vpermq", "vpermd"} & set(building)
