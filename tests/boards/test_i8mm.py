"""Products of matrices on ARM equal the definition bit for bit, and are usmmla."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm

from mpq_testing.conv_cases import DENSE, SAME, TRANSPOSED, TURNS, C, make_case
from mpq_testing.emulated import Case, EmulatedMachine
from tvm_mpq.kernels import Kernel, Request, default_kernel, families, fitting
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import W8A8, Precision
from tvm_mpq.targets import features, resolve, to_tvm

CORE = "neoverse-n2"
NAME = "qu8_qs8_s32_conv2d__i8mm"
LAYER = C(1, 14, 14, 256, 256, (3, 3), (1, 1), SAME)
(ROW,) = (f for f in families() if f.name == NAME)


def request(w: C, p: Precision = W8A8, out_bits: int = 8, threads: int = 1) -> Request:
    return Request(w, p, out_bits if is_clamp(w.activation) else 8, features(resolve(CORE)), threads)


def test_equals_the_definition(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    cases = []
    for turn, (w, (p, out_bits, threads, extreme)) in enumerate(zip([*DENSE, *TRANSPOSED], itertools.cycle(TURNS))):
        r = request(w, p, out_bits, threads)
        if ROW.fits(r):
            space = ROW.knob_space(r)
            cases.append(make_case(Kernel(r, ROW, space[turn % len(space)]), rng, extreme))
    assert len(cases) >= 12
    machine.check(cases, CORE)


def test_every_tile_at_the_ends_of_the_ranges(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    """Odd and even numbers of positions; the greatest sums of both signs."""
    cases = []
    r = request(C(1, 7, 6, 48, 24, (3, 3), (1, 1), SAME), out_bits=32)
    space = ROW.knob_space(r)
    assert {knobs["rows"] * knobs["columns"] % 2 for knobs in space} <= {0, 1} and len(space) == 5
    for knobs, sign in itertools.product(space, (1, -1)):
        case = make_case(Kernel(r, ROW, knobs), rng, True)
        assert case.operands.weight is not None
        case.operands.weight[:] = sign
        case.inputs[0][:] = 255
        cases.append(Case.of(case.kernel, case.operands, case.inputs))
    machine.check(cases, CORE)


@pytest.mark.parametrize(
    ("core", "name"),
    [
        ("neoverse-v1", NAME),
        ("neoverse-n2", NAME),
        ("cortex-a710", NAME),
        ("apple-m2", NAME),
        ("apple-m1", "qu8_qs8_s32_conv2d__dotprod"),
    ],
)
def test_cores_that_have_it_choose_it(core: str, name: str) -> None:
    """At one bit too, where tables are faster than dot products."""
    for precision in ("w8a8", "w1a4"):
        chosen = fitting(Request(LAYER, Precision.parse(precision), 8, features(resolve(core))))[0].name
        assert chosen == (name if precision == "w8a8" or name == NAME else "qu8_qs1_s32_lutconv2d__neon")


@pytest.mark.parametrize("w", [C(1, 1, 1, 256, 64, (1, 1)), C(1, 8, 8, 3, 16, (3, 3))], ids=["one row", "stem"])
def test_what_leaves_half_of_a_product_unused_stays_with_dot_products(w: C) -> None:
    assert default_kernel(request(w)).family.name == "qu8_qs8_s32_conv2d__dotprod"


def test_tiles_are_full_and_stay_in_registers() -> None:
    """Six positions are three pairs; each pair takes eight products a half of sixteen channels."""
    kernel = default_kernel(request(LAYER))
    assert kernel.knobs["rows"] * kernel.knobs["columns"] == 6
    module = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=to_tvm(resolve(CORE)))
    lines = [line.strip() for line in module.mod.inspect_source("s").splitlines()]
    last = max(i for i, line in enumerate(lines) if line.startswith("usmmla"))
    first = max(i for i in range(last) if lines[i].startswith(".LBB"))
    loop = lines[first : last + 1]
    assert sum(line.startswith("usmmla") for line in loop) in (2 * 8 * 2, 2 * 8 * 3)
    assert not [line for line in loop if "[sp" in line]
