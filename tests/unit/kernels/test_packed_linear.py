"""Packed linear layers equal the definition bit for bit: channels, rows, ends of ranges, every epilogue and knob."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tvm

import tvm_mpq.kernels  # noqa: F401  registers the rows
from mpq_testing.low_bit import check, compiled, make_operands
from tvm_mpq.kernels.frames.linear import linear_shape
from tvm_mpq.kernels.machines.avx2 import Avx2Fields, steps_limit
from tvm_mpq.kernels.machines.vbmi512 import GROUP, SubsetLookup, subset_members
from tvm_mpq.kernels.machines.vnni512 import VnniFields
from tvm_mpq.kernels.packing.linear import field_coding, pack_tiles
from tvm_mpq.kernels.registry import Family, Kernel, Request, default_kernel, families
from tvm_mpq.kernels.shapes import geometry
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
AVX2 = frozenset({"avx2"})
VNNI = AVX2 | {"avx512f", "avx512bw", "avx512vnni"}
VBMI = VNNI | {"avx512vbmi", "avx512vl"}
MCPU = {AVX2: "haswell", VNNI: "cascadelake", VBMI: "icelake-server"}
MARKS = {
    AVX2: pytest.mark.isa("avx2", "fma"),
    VNNI: pytest.mark.isa("avx512vnni"),
    VBMI: pytest.mark.isa("avx512vnni", "avx512vbmi"),
}
MACHINES = [pytest.param(f, marks=MARKS[f], id=MCPU[f]) for f in MCPU]
CODES = [
    *(pytest.param(f, bits, marks=MARKS[f], id=f"{MCPU[f]}-w{bits}") for f in (AVX2, VNNI) for bits in (1, 2, 3, 4)),
    pytest.param(VBMI, 1, marks=MARKS[VBMI], id="icelake-server-w1"),
]
"""Machine and weight bits wherever code or stored weights differ; on the others the epilogue does."""
CHANNELS = [(1, 100), (3, 17), (7, 10), (10, 63), (16, 64), (17, 3), (63, 16), (64, 7), (100, 1), (1000, 1000)]
"""Inputs and outputs."""
ENDS = [  # activation, residual, output bits
    ("none", False, 8),
    ("relu", False, 32),
    ("clip:0.0:3.0", True, 8),
    ("hard_swish", False, 8),
    ("none", False, 32),
    ("silu", True, 8),
    ("relu", False, 5),
]


@pytest.fixture(autouse=True)
def small_kernels_use_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PARALLEL_MACS", 0)


def family(request: Request) -> Family:
    """The row for weights of these bits on the request's best instructions."""
    bits = 4 if request.precision.weight_bits == 3 else request.precision.weight_bits
    if bits == 1 and request.features >= VBMI:
        name = "qu8_qs1_s32_lutlinear__avx512vbmi"
    elif request.features >= VNNI:
        name = f"qu8_qc{bits}u_s32_linear__avx512vnni"
    else:
        name = f"qu8_qc{bits}u_s16_linear__avx2"
    (row,) = (f for f in families() if f.name == name)
    return row


def linear(rows: int, inputs: int, outputs: int, activation: str = "none", residual: bool = False) -> C:
    return C(1, 1, rows, inputs, outputs, (1, 1), residual=residual, activation=activation)


def most_rows(weight_bits: int, activation_bits: int, features: frozenset[str]) -> int:
    requests = [Request(linear(n, 8, 8), Precision(weight_bits, activation_bits), 8, features) for n in (1, 2, 3, 4)]
    return sum(family(r).fits(r) for r in requests)


@pytest.mark.parametrize("features", MACHINES)
@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_reference(threads: int, weight_bits: int, features: frozenset[str], rng: np.random.Generator) -> None:
    """Channels, rows, activation bits and epilogues meet in turns."""
    turns = itertools.count(3 * threads + weight_bits + len(features))
    for inputs, outputs in CHANNELS[(threads + weight_bits + len(features)) % 3 :: 3]:
        turn = next(turns)
        activation, residual, out_bits = ENDS[turn % len(ENDS)]
        activation_bits = 8 - turn % 7 if turn % 2 else 8
        rows = min(turn % 3 + 1, most_rows(weight_bits, activation_bits, features))
        w = linear(rows, inputs, outputs, activation, residual)
        request = Request(w, Precision(weight_bits, activation_bits), out_bits, features, threads)
        row = family(request)
        assert row.fits(request)
        space = row.knob_space(request)
        check(Kernel(request, row, space[turn % len(space)]), rng, mcpu=MCPU[features])


@pytest.mark.parametrize("features, weight_bits", CODES)
def test_every_candidate_equals_reference(features: frozenset[str], weight_bits: int, rng: np.random.Generator) -> None:
    """A last tile that is moved back, and bytes whose fields are not all in use."""
    request = Request(linear(1, 150, 330), Precision(weight_bits, 8), 8, features)
    space = family(request).knob_space(request)
    assert 2 <= len(space) <= 8
    for knobs in space:
        check(Kernel(request, family(request), knobs), rng, mcpu=MCPU[features])


@pytest.mark.parametrize("features, weight_bits", CODES)
@pytest.mark.parametrize("activation_bits", [8, 5, 2])
def test_ends_of_the_ranges(
    activation_bits: int, features: frozenset[str], weight_bits: int, rng: np.random.Generator
) -> None:
    """All activations at one end and all weights at one: the greatest sums that 8 and 16 bits must hold."""
    w = linear(1, 1030, 20)
    request = Request(w, Precision(weight_bits, activation_bits), 32, features)
    run = compiled(Kernel(request, family(request), family(request).knob_space(request)[0]), MCPU[features])
    for sign, value in itertools.product((1, -1), (0, 2**activation_bits - 1)):
        operands = make_operands(w, activation_bits, 32, rng, sign)
        x = np.full((1, 1, 1, 1030), value, np.uint8)
        np.testing.assert_array_equal(run(operands, [x]), evaluate(w, request.precision, 32, operands, [x]))


@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4])
def test_codes_are_the_weights(weight_bits: int) -> None:
    coding = field_coding(Request(linear(1, 8, 8), Precision(weight_bits, 8), 8, VNNI))
    low, high = weight_range(weight_bits)
    assert {low, high} <= {coding.step * u - coding.offset for u in range(coding.greatest + 1)}
    assert coding.greatest < 1 << coding.bits


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
def test_sixteen_bits_hold_a_trip(weight_bits: int) -> None:
    """Two products of -128 and the greatest field of half a byte, for each step of a trip, and not one more step."""
    coding = field_coding(Request(linear(1, 8, 8), Precision(weight_bits, 8), 8, AVX2))
    worst = 2 * -128 * (coding.greatest << 4 - coding.bits)
    assert -(2**15) <= steps_limit(coding) * worst < -(2**15) - worst
    assert Avx2Fields(coding).depths() == [steps_limit(coding)]


def test_int32_holds_fields_in_their_places() -> None:
    """-128 times the greatest field that a sum is shifted right from: 14 << 4, 2 << 6 and 1 << 7."""
    for weight_bits, field in ((4, 224), (2, 128), (1, 128)):
        row = family(Request(linear(1, 8, 8), Precision(weight_bits, 8), 8, VNNI))
        for inputs, fits in (((2**31 - 1) // (128 * field), True), ((2**31 - 1) // (128 * field) + 1, False)):
            assert row.fits(Request(linear(1, inputs, 8), Precision(weight_bits, 8), 8, VNNI)) is fits


@pytest.mark.parametrize("weight_bits, parts, lanes", [(1, 3, 16), (2, 8, 16), (4, 3, 8), (2, 5, 8)])
def test_fields_are_the_weights(weight_bits: int, parts: int, lanes: int, rng: np.random.Generator) -> None:
    w = linear(1, 37, 150)
    request = Request(w, Precision(weight_bits, 8), 8, VNNI if lanes == 16 else AVX2)
    machine = (VnniFields if lanes == 16 else Avx2Fields)(field_coding(request))
    s = linear_shape(request, {"parts": parts, "depth": 4}, machine)
    low, high = weight_range(weight_bits)
    weight = rng.choice([low, high] if weight_bits == 1 else np.arange(low, high + 1), (150, 37)).astype(np.int8)
    packed = pack_tiles(machine.codes(weight, s), s)
    assert packed.shape == s.weight_shape and s.steps * 4 >= 37
    seen = set()
    for tile, first in enumerate(s.firsts):
        for part, lane, k in itertools.product(range(s.parts), range(lanes), range(37)):
            channel = (first + part) * lanes + lane
            if channel < 150:
                byte = int(packed[tile, k // 4, part // s.coding.fields, lane, k % 4])
                field = byte >> (part % s.coding.fields * s.coding.bits) & ((1 << s.coding.bits) - 1)
                assert s.coding.step * field - s.coding.offset == weight[channel, k]
                seen.add(channel)
    assert seen == set(range(150))


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
def test_weights_take_their_bits(weight_bits: int, rng: np.random.Generator) -> None:
    w = linear(1, 256, 512)
    for features in (VNNI, AVX2):
        kernel = default_kernel(Request(w, Precision(weight_bits, 8), 8, features))
        assert kernel.family is family(kernel.request)
        assert kernel.constants(make_operands(w, 8, 8, rng, None))[0].nbytes * 8 == w.weight_count * weight_bits


@pytest.mark.parametrize("activation_bits", [1, 4, 5, 6, 8])
def test_tables_hold_the_sums_of_subsets(activation_bits: int, rng: np.random.Generator) -> None:
    """What a byte of weights finds, in plain indexing, adds up to the sum of products; no entry leaves a byte."""
    machine, top = SubsetLookup(activation_bits), (1 << activation_bits) - 1
    s = linear_shape(
        Request(linear(1, 47, 20), Precision(1, activation_bits), 8, VBMI), {"parts": 1, "depth": 1}, machine
    )
    weight = rng.choice([-1, 1], (20, 47)).astype(np.int8)
    codes = machine.codes(weight, s)
    x = np.zeros(s.steps * 20, np.int64)
    x[:47] = np.append(rng.integers(0, top + 1, 27), np.full(20, top))
    pieces = [x] if machine.pieces == 1 else [x & 15, x >> 4]
    total = np.zeros(20, np.int64)
    for p, piece in enumerate(pieces):
        for t in range(s.steps):
            loaded = np.append(piece[20 * t : 20 * t + 20], np.zeros(13, np.int64))
            table = np.concatenate([sum(loaded[np.array(places)] for places in half) for half in subset_members()])
            assert len(table) == 4 << GROUP and table.max() <= 255
            total += table[codes[:, t]].sum(axis=1) << 4 * p
    np.testing.assert_array_equal(2 * total - x.sum(), weight.astype(np.int64) @ x[:47])


def test_the_fastest_goes_first() -> None:
    """Sums of few activation bits are looked up: with weights of one bit always, of two where rows share tables."""

    def chosen(rows: int, precision: str, features: frozenset[str]) -> str:
        kernel = default_kernel(Request(linear(rows, 64, 64), Precision.parse(precision), 8, features))
        return kernel.family.name.split("_")[-3]

    assert [chosen(1, p, AVX2) for p in ("w4a4", "w2a8", "w2a4", "w1a4")] == ["linear", "linear", *["lutconv2d"] * 2]
    assert [chosen(1, p, VNNI) for p in ("w4a4", "w2a8", "w2a4", "w1a4")] == ["linear"] * 4
    assert [chosen(1, p, VBMI) for p in ("w4a4", "w2a4", "w1a8", "w1a4")] == ["linear"] * 2 + ["lutlinear"] * 2
    assert [chosen(2, p, VBMI) for p in ("w4a8", "w2a4", "w1a8", "w1a4")] == [
        "linear",
        "lutconv2d",
        "linear",
        "lutconv2d",
    ]


@pytest.mark.parametrize("features", [AVX2, VNNI], ids=["avx2", "vnni"])
def test_refuses_what_it_cannot_do(features: frozenset[str]) -> None:
    fine = Request(linear(1, 64, 64), Precision(4, 8), 8, features)
    assert family(fine).fits(fine)
    w = linear(1, 64, 64)
    others = [
        linear(4, 64, 64),
        linear(1, {AVX2: 601_537, VNNI: 74_899}[features], 8),
        dataclasses.replace(w, groups=4),
        dataclasses.replace(w, padding=(0, 1, 0, 0)),
        dataclasses.replace(w, kernel=(1, 3), padding=(0, 1, 0, 1)),
        C(1, 2, 2, 64, 64, (1, 1), (2, 2)),
    ]
    refused = [dataclasses.replace(fine, workload=other) for other in others]
    refused.append(dataclasses.replace(fine, precision=Precision(5, 8)))
    refused.append(dataclasses.replace(fine, workload=linear(1, 64, 64, "gelu"), out_bits=32))
    assert not [r.key for r in refused if family(fine).fits(r)]


def test_sums_that_registers_cannot_hold_are_refused() -> None:
    assert [most_rows(bits, 8, VNNI) for bits in (1, 2, 4)] == [2, 3, 3] and most_rows(1, 8, VBMI) == 1
    assert [most_rows(bits, 8, AVX2) for bits in (1, 2, 4)] == [1, 2, 3]


def test_weights_are_asked_for_ahead() -> None:
    request = Request(linear(1, 64, 64), Precision(4, 8), 8, VNNI)
    first, *_, last = family(request).knob_space(request)
    assert (first["ahead"], last["ahead"]) == (0, 16384)
    for knobs in (first, last):
        target = tvm.target.Target({"kind": "llvm", "mcpu": MCPU[VNNI]})
        library = tvm.compile(tvm.IRModule({"main": Kernel(request, family(request), knobs).build()}), target=target)
        assert ("prefetcht0" in library.mod.inspect_source("s")) == (knobs["ahead"] > 0)
