"""NEON's integer convolutions equal the definition bit for bit, on each core that they are compiled for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpq_testing.conv_cases import DENSE, DEPTHWISE, GROUPED, SAME, TRANSPOSED, TURNS, C, make_case
from mpq_testing.emulated import Case, EmulatedMachine
from mpq_testing.slowly import SLOW
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import W4A8, W8A8, Precision
from tvm_mpq.targets import features, resolve

CORES = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76")


def cases_for(
    core: str, workloads: list[C], rng: np.random.Generator, every: bool, parts: tuple[int, ...] = (0, 1)
) -> list[Case]:
    """Each workload with one turn; the best or every family of ours that fits it, one of their tiles each.

    parts: of two, each of which has half of the workloads and half of each turn.
    """
    found = []
    for i, (w, (p, out_bits, threads, extreme)) in enumerate(zip(workloads, itertools.cycle(TURNS), strict=False)):
        if (i + i // len(TURNS)) % 2 not in parts:
            continue
        request = Request(w, p, out_bits if is_clamp(w.activation) else 8, features(resolve(core)), threads)
        rows = [f for f in fitting(request) if f.name.rpartition("__")[2] in ("neon", "dotprod")]
        assert rows, f"no NEON family for {request.key}"
        for row in rows if every else rows[:1]:
            space = row.knob_space(request)
            found.append(make_case(Kernel(request, row, space[len(w.key) % len(space)]), rng, extreme))
    return found


WORKLOADS = [*DENSE, *DEPTHWISE, *GROUPED, *TRANSPOSED]


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=SLOW)])
@pytest.mark.parametrize("core", CORES[:2])
def test_equals_the_definition(machine: EmulatedMachine, core: str, part: int, rng: np.random.Generator) -> None:
    machine.check(cases_for(core, WORKLOADS, rng, every=core == CORES[0], parts=(part,)), core)


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES[2:])
def test_cores_of_the_same_features(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    """As those above; other turns, fewer shapes."""
    machine.check(cases_for(core, WORKLOADS[1::3], rng, every=False), core)


@pytest.mark.parametrize(
    "core, chosen",
    [("cortex-a53", [(DENSE[9], W8A8), (DENSE[9], W4A8), (DEPTHWISE[1], W8A8)]), ("cortex-a55", [(DENSE[9], W8A8)])],
    ids=["cortex-a53", "cortex-a55"],
)
def test_every_tile_equals_the_definition(
    machine: EmulatedMachine, core: str, chosen: list[tuple[C, Precision]], rng: np.random.Generator
) -> None:
    found = []
    for w, p in chosen:
        request = Request(w, p, 8, features(resolve(core)))
        family = fitting(request)[0]
        found += [make_case(Kernel(request, family, knobs), rng, True) for knobs in family.knob_space(request)]
    assert len(found) >= 4 * len(chosen)
    machine.check(found, core)


def test_sums_at_the_ends_of_16_bits(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    """All weights at one end and all activations at one: the case for which the depth is chosen."""
    found = []
    for text in ("w8a8", "w8a7", "w7a8", "w6a8", "w4a8", "w2a5", "w1a8"):
        for w in (C(1, 1, 6, 64, 16, (1, 1)), C(1, 4, 5, 16, 16, (3, 3), (1, 1), SAME, groups=16)):
            p = Precision.parse(text)
            request = Request(w, p, 32, features(resolve("cortex-a53")))
            kernel = Kernel(request, fitting(request)[0], fitting(request)[0].knob_space(request)[-1])
            for sign, x in itertools.product((1, -1), (0, 2**p.activation_bits - 1)):
                case = make_case(kernel, rng, False)
                assert case.operands.weight is not None
                case.operands.weight[:] = sign
                case.inputs[0][:] = x
                found.append(Case.of(kernel, case.operands, case.inputs))
    machine.check(found, "cortex-a53")


@pytest.mark.parametrize(
    "core, precision, name",
    [
        ("cortex-a53", W8A8, "qu8_qs8_s32_conv2d__neon"),
        ("cortex-a53", W4A8, "qu8_qs8_s16_conv2d__neon"),
        ("cortex-a72", Precision(3, 8), "qu8_qs8_s16_conv2d__neon"),
        ("cortex-a76", W8A8, "qu8_qs8_s32_conv2d__dotprod"),
        ("neoverse-n1", W4A8, "qu8_qs8_s32_conv2d__dotprod"),
        ("apple-m1", W8A8, "qu8_qs8_s32_conv2d__dotprod"),
        ("cortex-a7", W8A8, "qu8_qs8_s32_conv2d__generic"),
        ("rv64gcv", W8A8, "qu8_qs8_s32_conv2d__generic"),
    ],
)
def test_features_choose_the_family(core: str, precision: Precision, name: str) -> None:
    assert fitting(Request(DENSE[9], precision, 8, features(resolve(core))))[0].name == name
