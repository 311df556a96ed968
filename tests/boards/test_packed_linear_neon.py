"""Packed linear layers of few rows on ARM, with and without dot products, equal the definition bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpq_testing.conv_cases import C, make_case
from mpq_testing.emulated import Case, EmulatedMachine
from mpq_testing.slowly import SLOW
from tvm_mpq.kernels import Kernel, Request, default_kernel, families
from tvm_mpq.kernels.machines.neon_linear import NeonFields
from tvm_mpq.kernels.packing.linear import field_coding
from tvm_mpq.kernels.registry import Family
from tvm_mpq.numerics.conv import most_terms
from tvm_mpq.schema import Precision
from tvm_mpq.targets import features, resolve

CORES = {"cortex-a53": ("s16", "neon"), "cortex-a55": ("s32", "dotprod")}
SHAPES = [(1, 150, 330), (2, 37, 100), (3, 150, 36), (1, 1030, 20)]
"""Rows, inputs, outputs: tiles that are moved back, steps that are filled up, fields that are not in use."""


def linear(rows: int, inputs: int, outputs: int, residual: bool = False) -> C:
    return C(1, 1, rows, inputs, outputs, (1, 1), residual=residual)


def row(core: str, weight_bits: int) -> Family:
    sums, isa = CORES[core]
    name = f"qu8_qc{4 if weight_bits == 3 else weight_bits}u_{sums}_linear__{isa}"
    (found,) = (f for f in families() if f.name == name)
    return found


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=SLOW)])
@pytest.mark.parametrize("core", CORES)
def test_equals_the_definition(machine: EmulatedMachine, core: str, part: int, rng: np.random.Generator) -> None:
    """Half of the shapes at each precision, half of the precisions for each shape."""
    cases = []
    for turn, (text, shape) in enumerate(itertools.product(("w4a8", "w3a8", "w2a8", "w1a8", "w2a3"), SHAPES)):
        if (turn + turn // len(SHAPES)) % 2 != part:
            continue
        p, residual = Precision.parse(text), turn % 3 == 1
        r = Request(linear(*shape, residual), p, 8 if turn % 3 else 32, features(resolve(core)), turn % 2 + 1)
        family = row(core, p.weight_bits)
        if family.fits(r):
            for knobs in family.knob_space(r)[turn % 2 :: 2]:
                cases.append(make_case(Kernel(r, family, knobs), rng, not residual))
    assert len(cases) >= 10
    machine.check(cases, core)


@pytest.mark.parametrize("core", CORES)
def test_ends_of_the_ranges(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    """All activations at one end and all weights at one: the greatest sums that 16 and 32 bits must hold."""
    cases = []
    for bits, sign, value in itertools.product((4, 2, 1), (1, -1), (0, 255)):
        r = Request(linear(1, 1030, 20), Precision(bits, 8), 32, features(resolve(core)))
        family = row(core, bits)
        case = make_case(Kernel(r, family, family.knob_space(r)[0]), rng, False)
        assert case.operands.weight is not None
        case.operands.weight[:] = sign
        case.inputs[0][:] = value
        cases.append(Case.of(case.kernel, case.operands, case.inputs))
    machine.check(cases, core)


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
def test_sixteen_bits_hold_a_trip(weight_bits: int) -> None:
    r = Request(linear(1, 8, 8), Precision(weight_bits, 8), 8, features(resolve("cortex-a53")))
    machine = NeonFields(field_coding(r))
    assert machine.steps_limit * 128 * machine.highest <= 2**15 < (machine.steps_limit + 1) * 128 * machine.highest
    assert machine.depths()[0] <= machine.steps_limit


@pytest.mark.parametrize(
    ("core", "precision", "name"),
    [
        ("cortex-a72", "w4a8", "qu8_qc4u_s16_linear__neon"),
        ("cortex-a76", "w4a8", "qu8_qc4u_s32_linear__dotprod"),
        ("cortex-a76", "w1a8", "qu8_qc1u_s32_linear__dotprod"),
        ("neoverse-v1", "w2a8", "qu8_qc2u_s32_linear__dotprod"),
        ("cortex-a76", "w1a4", "qu8_qs1_s32_lutconv2d__neon"),
        ("cortex-a72", "w2a4", "qu8_qs2_s32_lutconv2d__neon"),
    ],
)
def test_features_choose_the_row(core: str, precision: str, name: str) -> None:
    chosen = default_kernel(Request(linear(1, 256, 512), Precision.parse(precision), 8, features(resolve(core))))
    assert chosen.family.name == name
    bits = chosen.request.precision.weight_bits
    assert chosen.work.weight_bytes == 256 * 512 * bits / 8


@pytest.mark.parametrize(
    ("core", "most"),
    [("cortex-a53", most_terms(4, 8)), ("cortex-a55", (2**31 - 1) // (255 * (14 << 4)))],
)
def test_int32_holds_the_sums(core: str, most: int) -> None:
    """Fields in their places are shifted back from sums 16 times as large; those of half a byte are no larger."""
    for inputs, fits in ((most, True), (most + 1, False)):
        r = Request(linear(1, inputs, 8), Precision(4, 8), 8, features(resolve(core)))
        assert row(core, 4).fits(r) is fits
