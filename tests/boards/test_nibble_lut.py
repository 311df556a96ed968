"""NEON's look-up convolutions equal the definition bit for bit, on each core that they are compiled for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpq_testing.emulated import Case, EmulatedMachine
from mpq_testing.slowly import slow_but
from tvm_mpq.kernels.packing.nibble_indices import CODINGS, GROUP
from tvm_mpq.kernels.registry import Family, Kernel, Request, families, fitting
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload, Precision, TensorQuant
from tvm_mpq.targets import features, resolve

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
CORES = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76")

SHAPES = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 17, (1, 1)),
    C(1, 13, 9, 16, 10, (5, 5), (2, 2), (2, 2, 2, 2)),
    C(1, 7, 7, 17, 3, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 1, 1, 33, 64, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 64, 7, (3, 1), (1, 2), (1, 0, 1, 0)),
    C(1, 1, 197, 20, 40, (1, 1), residual=True),
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 7, 7, 63, 24, (5, 5), (1, 1), (2, 2, 2, 2)),
]
TURNS = [("w2a4", 8, 1), ("w1a5", 32, 2), ("w2a5", 32, 1), ("w1a4", 8, 2), ("w2a2", 8, 2), ("w1a3", 32, 1)]
THREE_BITS = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 52, (1, 1)),
    C(1, 13, 9, 16, 10, (5, 5), (2, 2), (2, 2, 2, 2), residual=True),
    C(1, 1, 1, 33, 64, (3, 3), (1, 1), SAME),
    C(1, 7, 7, 17, 60, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(2, 9, 5, 40, 72, (1, 3), (1, 1), (0, 2, 0, 0)),
]


def family(bits: int) -> Family:
    (row,) = (f for f in families() if f.name == f"qu8_qs{bits}_s32_lutconv2d__neon")
    return row


def kernel_of(w: C, precision: str, out_bits: int, core: str, threads: int = 1, turn: int = 0) -> Kernel:
    p = Precision.parse(precision)
    request = Request(w, p, out_bits if is_clamp(w.activation) else 8, features(resolve(core)), threads)
    row = family(p.weight_bits)
    assert row.fits(request)
    space = row.knob_space(request)
    return Kernel(request, row, {**space[turn % len(space)], "band": (1, 3, 1000)[turn % 3]})


def make_case(kernel: Kernel, rng: np.random.Generator, sign: int | None = None) -> Case:
    """Random operands, or all weights of one sign and activations at their ends."""
    w, p = kernel.request.workload, kernel.request.precision
    assert isinstance(w, C)
    top = 2**p.activation_bits - 1
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels)).astype(np.float32)
    zero_point = int(rng.integers(0, top + 1))
    x = rng.integers(0, top + 1, (w.batch, w.in_height, w.in_width, w.in_channels))
    if sign is not None:
        weight, zero_point = np.full_like(weight, sign), 0 if sign > 0 else top
        x = np.full_like(x, top)
    r = rng.integers(0, 256, (w.batch, w.out_height, w.out_width, w.out_channels))
    spread = float(w.kernel[0] * w.kernel[1] * w.in_channels) ** 0.5

    def quant(scale: float, point: int, bits: int = 8) -> TensorQuant:
        return TensorQuant(bits, float(np.float32(scale)), point)

    operands = Operands(
        (quant(0.03, zero_point, p.activation_bits), *([quant(0.05, 131)] if w.residual else [])),
        None if kernel.request.out_bits == 32 else quant(0.004 * spread, 120),
        weight,
        rng.standard_normal(w.out_channels).astype(np.float32),
        None if is_clamp(w.activation) else quant(0.005 * spread, 100),
    )
    return Case.of(kernel, operands, [x.astype(np.uint8), *([r.astype(np.uint8)] if w.residual else [])])


@pytest.mark.parametrize("core", slow_but(CORES, "cortex-a53", "cortex-a76"))
def test_equals_the_definition(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    first = CORES.index(core)
    turns = itertools.islice(itertools.cycle(TURNS), first, None)
    some = SHAPES if first == 0 else SHAPES[first::3]
    cases = [
        make_case(kernel_of(w, p, out_bits, core, threads, i), rng)
        for i, (w, (p, out_bits, threads)) in enumerate(zip(some, turns, strict=False))
    ]
    machine.check(cases, core)


@pytest.mark.parametrize("core", slow_but(["cortex-a53", "cortex-a72"], "cortex-a53"))
def test_three_bits_equal_the_definition(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    turns = [("w3a4", 8, 1), ("w3a5", 32, 2), ("w3a2", 32, 1), ("w3a3", 8, 2)]
    first = core == "cortex-a72"
    cases = [
        make_case(kernel_of(w, p, out_bits, core, threads, i + 3 * first), rng)
        for i, (w, (p, out_bits, threads)) in enumerate(zip(THREE_BITS, itertools.cycle(turns[first:] + turns[:first])))
    ]
    machine.check(cases, core)


def test_ends_of_the_ranges(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    """The greatest sums that bytes and 16 bit counters must hold, also where counters move more than once."""
    short, long = C(1, 3, 4, 40, 20, (3, 3), (1, 1), SAME), C(1, 1, 4, 2600, 16, (1, 1))
    wide = C(1, 1, 4, 900, 16, (1, 5), (1, 1), (0, 2, 0, 2))
    assert long.in_channels // GROUP > CODINGS[2].lookups_limit(5)
    assert wide.kernel[1] * wide.in_channels // GROUP > CODINGS[3].lookups_limit(4)
    chosen = [(short, f"w{w}a{a}") for w in (1, 2, 3) for a in (2, 3, 4, 5)]
    chosen += [(long, "w2a5"), (long, "w1a5"), (wide, "w3a4")]
    cases = [
        make_case(kernel_of(w, p, 32, "cortex-a72", turn=turn), rng, sign)
        for turn, (w, p) in enumerate(chosen)
        for sign in (1, -1)
    ]
    machine.check(cases, "cortex-a72")


def test_only_one_bit_comes_before_sdot() -> None:
    w = C(1, 8, 8, 64, 64, (3, 3), (1, 1), SAME)
    for core, precision, expected in (
        ("cortex-a53", "w3a4", True),
        ("cortex-a72", "w3a4", True),
        ("cortex-a55", "w3a4", False),
        ("cortex-a76", "w3a4", False),
        ("cortex-a72", "w2a4", True),
        ("cortex-a72", "w1a4", True),
        ("cortex-a76", "w2a4", False),
        ("cortex-a76", "w1a4", True),
    ):
        p = Precision.parse(precision)
        best = fitting(Request(w, p, 8, features(resolve(core))))[0]
        assert (best is family(p.weight_bits)) == expected, (core, precision, best.name)


def test_three_bits_want_tables_that_are_used_often() -> None:
    """Building a table costs what some look-ups of three bits save."""
    for w, expected in (
        (C(1, 8, 8, 64, 16, (3, 3), (1, 1), SAME), True),
        (C(1, 8, 8, 64, 32, (3, 3), (2, 2), SAME), True),
        (C(1, 8, 8, 64, 16, (3, 3), (2, 2), SAME), False),
        (C(1, 8, 8, 64, 64, (1, 1)), True),
        (C(1, 8, 8, 64, 48, (1, 1)), False),
        (C(1, 8, 8, 64, 48, (1, 1), (2, 2)), False),
    ):
        request = Request(w, Precision(3, 4), 8, features(resolve("cortex-a72")))
        assert family(3).fits(request) == expected, w.key
