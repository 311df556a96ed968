"""Packed linear layers equal the definition bit for bit: channels, rows, ends of ranges, every epilogue and knob."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tvm

from mpq_testing.low_bit import check, compiled, make_operands
from tvm_mpq.kernels import lut, nibble_lut, packed_linear  # noqa: F401  register the rows
from tvm_mpq.kernels.conv import geometry
from tvm_mpq.kernels.packed_linear.build import linear_shape
from tvm_mpq.kernels.packed_linear.coding import coding_of, is_exact
from tvm_mpq.kernels.packed_linear.pack import pack_fields
from tvm_mpq.kernels.packed_linear.x86_256 import Avx2, steps_limit
from tvm_mpq.kernels.packed_linear.x86_512 import Vnni
from tvm_mpq.kernels.registry import Family, Kernel, Request, default_kernel, families
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
AVX2 = frozenset({"avx2"})
VNNI = AVX2 | {"avx512f", "avx512bw", "avx512vnni"}
VBMI = VNNI | {"avx512vbmi", "avx512vl"}
MCPU = {AVX2: "haswell", VNNI: "cascadelake", VBMI: "icelake-server"}
MACHINES = [
    pytest.param(AVX2, marks=pytest.mark.isa("avx2", "fma"), id="avx2"),
    pytest.param(VNNI, marks=pytest.mark.isa("avx512vnni"), id="vnni"),
    pytest.param(VBMI, marks=pytest.mark.isa("avx512vnni", "avx512vbmi"), id="vbmi"),
]
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
    name = f"qu8_qc{bits}u_s32_linear__avx512vnni" if request.features >= VNNI else f"qu8_qc{bits}u_s16_linear__avx2"
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


@pytest.mark.parametrize("features", MACHINES[:2])
@pytest.mark.parametrize("weight_bits", [1, 2, 4])
def test_every_candidate_equals_reference(weight_bits: int, features: frozenset[str], rng: np.random.Generator) -> None:
    """A last tile that is moved back, and bytes whose fields are not all in use."""
    request = Request(linear(1, 150, 330), Precision(weight_bits, 8), 8, features)
    space = family(request).knob_space(request)
    assert 2 <= len(space) <= 8
    for knobs in space:
        check(Kernel(request, family(request), knobs), rng, mcpu=MCPU[features])


@pytest.mark.parametrize("features", MACHINES[:2])
@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("activation_bits", [8, 2])
def test_ends_of_the_ranges(
    activation_bits: int, weight_bits: int, features: frozenset[str], rng: np.random.Generator
) -> None:
    """All activations at one end and all weights at one: the greatest sums that 16 bits must hold."""
    w = linear(1, 1030, 20)
    request = Request(w, Precision(weight_bits, activation_bits), 32, features)
    run = compiled(Kernel(request, family(request), family(request).knob_space(request)[0]), MCPU[features])
    for sign, value in itertools.product((1, -1), (0, 2**activation_bits - 1)):
        operands = make_operands(w, activation_bits, 32, rng, sign)
        x = np.full((1, 1, 1, 1030), value, np.uint8)
        np.testing.assert_array_equal(run(operands, [x]), evaluate(w, request.precision, 32, operands, [x]))


@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4])
def test_codes_are_the_weights(weight_bits: int) -> None:
    coding = coding_of(Request(linear(1, 8, 8), Precision(weight_bits, 8), 8, VNNI))
    low, high = weight_range(weight_bits)
    assert {low, high} <= {coding.step * u - coding.offset for u in range(coding.greatest + 1)}
    assert coding.greatest < 1 << coding.bits


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
def test_sixteen_bits_hold_a_trip(weight_bits: int) -> None:
    """Two products of -128 and the greatest field of half a byte, for each step of a trip, and not one more step."""
    coding = coding_of(Request(linear(1, 8, 8), Precision(weight_bits, 8), 8, AVX2))
    worst = 2 * -128 * (coding.greatest << 4 - coding.bits)
    assert -(2**15) <= steps_limit(coding) * worst < -(2**15) - worst
    assert Avx2().depths(coding) == [steps_limit(coding)]


def test_int32_holds_the_products_of_whole_bytes() -> None:
    assert 255 * 128 * 65_793 < 2**31 <= 255 * 128 * 65_794
    assert is_exact(linear(1, 65_793, 8)) and not is_exact(linear(1, 65_794, 8))


@pytest.mark.parametrize("weight_bits, parts, lanes", [(1, 3, 16), (2, 8, 16), (4, 3, 8), (2, 5, 8)])
def test_fields_are_the_weights(weight_bits: int, parts: int, lanes: int, rng: np.random.Generator) -> None:
    w = linear(1, 37, 150)
    request = Request(w, Precision(weight_bits, 8), 8, VNNI if lanes == 16 else AVX2)
    s = linear_shape(request, {"parts": parts, "depth": 4}, Vnni() if lanes == 16 else Avx2())
    low, high = weight_range(weight_bits)
    weight = rng.choice([low, high] if weight_bits == 1 else np.arange(low, high + 1), (150, 37)).astype(np.int8)
    packed = pack_fields(weight, s)
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


def test_tables_go_first_where_they_are_faster() -> None:
    """Sums of few activation bits are looked up: weights of one bit always, those of two where rows share tables."""

    def looks_up(rows: int, precision: str, features: frozenset[str]) -> bool:
        kernel = default_kernel(Request(linear(rows, 64, 64), Precision.parse(precision), 8, features))
        return "lutconv2d" in kernel.family.name

    assert looks_up(1, "w1a4", VBMI) and looks_up(1, "w1a4", AVX2) and looks_up(1, "w2a4", AVX2)
    assert looks_up(2, "w2a4", VBMI) and not looks_up(1, "w2a4", VBMI)
    assert not looks_up(1, "w1a8", VBMI) and not looks_up(1, "w1a4", VNNI)


@pytest.mark.parametrize("features", [AVX2, VNNI], ids=["avx2", "vnni"])
def test_refuses_what_it_cannot_do(features: frozenset[str]) -> None:
    fine = Request(linear(1, 64, 64), Precision(4, 8), 8, features)
    assert family(fine).fits(fine)
    w = linear(1, 64, 64)
    others = [
        linear(4, 64, 64),
        linear(1, 65_794, 8),
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
    assert [most_rows(bits, 8, VNNI) for bits in (1, 2, 4)] == [2, 3, 3]
    assert [most_rows(bits, 8, AVX2) for bits in (1, 2, 4)] == [1, 2, 3]


def test_weights_are_asked_for_ahead() -> None:
    request = Request(linear(1, 64, 64), Precision(4, 8), 8, VNNI)
    first, *_, last = family(request).knob_space(request)
    assert (first["ahead"], last["ahead"]) == (0, 16384)
    for knobs in (first, last):
        target = tvm.target.Target({"kind": "llvm", "mcpu": MCPU[VNNI]})
        library = tvm.compile(tvm.IRModule({"main": Kernel(request, family(request), knobs).build()}), target=target)
        assert ("prefetcht0" in library.mod.inspect_source("s")) == (knobs["ahead"] > 0)
