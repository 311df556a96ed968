"""The portable families compile for ARM and RISC-V and equal their definition there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpq_testing.conv_cases import DENSE, DEPTHWISE, GROUPED, TURNS, make_case
from mpq_testing.emulated import Case, EmulatedMachine
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import (
    FLOAT_BITS,
    FP32,
    W8A8,
    ActivationWorkload,
    AddWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    MultiplyWorkload,
    Pool2dWorkload,
    Precision,
    Workload,
)
from tvm_mpq.targets import features, resolve
from tvm_mpq.tuning.measure.verify import FLOAT_TOLERANCE, example_inputs, example_operands

PORTABLE = ("cortex-a7", "rv64gc", "rv64gcv")
"""Cores without a convolution of their own."""
CORES = ("cortex-a53", "cortex-a76", *PORTABLE)
SAME = (1, 1, 1, 1)

CARRIERS: list[Workload] = [
    AddWorkload((1, 5, 7, 33), "relu"),
    AddWorkload((2, 9, 16), "hard_swish"),
    MultiplyWorkload((1, 5, 7, 20), False),
    MultiplyWorkload((2, 3, 5, 17), True, "clip:0.0:1.5"),
    ConcatWorkload(13, (16, 3, 40)),
    Pool2dWorkload("max", 1, 9, 8, 17, (3, 3), (2, 2), SAME, 5, 4),
    Pool2dWorkload("avg", 1, 9, 8, 17, (3, 3), (2, 2), SAME, 5, 4),
    Pool2dWorkload("avg_valid", 2, 7, 7, 64, (7, 7), (1, 1), (0, 0, 0, 0), 1, 1),
    ActivationWorkload((1, 5, 7, 33), "sigmoid"),
    CopyWorkload((1, 8, 8, 16), (1, 4, 4, 32), (0, 0, 0, 0), (1, 2, 2, 1), (1, 4, 4, 16), (0, 0, 0, 8)),
]
CONVERSIONS = [
    ConvertWorkload((1, 9, 8, 3), FLOAT_BITS, 8, True),
    ConvertWorkload((1, 5, 7, 33), FLOAT_BITS, 8),
    ConvertWorkload((2, 5, 7, 20), 8, FLOAT_BITS, True),
    ConvertWorkload((6, 100), 8, FLOAT_BITS),
    ConvertWorkload((1, 5, 7, 33), 8, 4),
    ConvertWorkload((1, 5, 7, 33), 5, 8),
]
FLOATS: list[Workload] = [
    Conv2dWorkload(1, 9, 8, 3, 20, (3, 3), (2, 2), SAME, activation="relu"),
    Conv2dWorkload(1, 6, 7, 33, 40, (1, 1), residual=True),
    Conv2dWorkload(1, 9, 8, 20, 20, (3, 3), (1, 1), SAME, groups=20, activation="hard_swish"),
    AddWorkload((1, 5, 7, 33), "relu"),
    Pool2dWorkload("avg", 1, 9, 8, 17, (3, 3), (2, 2), SAME, 5, 4),
]


def case(workload: Workload, precision: Precision, out_bits: int, core: str, rng: np.random.Generator) -> Case:
    request = Request(workload, precision, out_bits, features(resolve(core)), 2)
    family = fitting(request)[0]
    kernel = Kernel(request, family, family.knob_space(request)[0])
    operands = example_operands(kernel, rng)
    inputs = example_inputs(kernel, rng, operands)
    if isinstance(workload, ConvertWorkload) and workload.from_bits != FLOAT_BITS:
        inputs = [rng.integers(0, 2**workload.from_bits, workload.shape).astype(np.uint8)]
    return Case.of(kernel, operands, inputs)


def converted(work: ConvertWorkload) -> Precision:
    bits = min(work.from_bits, work.to_bits) if FLOAT_BITS in (work.from_bits, work.to_bits) else work.from_bits
    return Precision(bits, bits)


@pytest.mark.parametrize("core", CORES)
def test_integers_are_equal(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    cases = [case(work, W8A8, 8, core, rng) for work in CARRIERS]
    cases += [case(work, converted(work), work.to_bits, core, rng) for work in CONVERSIONS]
    machine.check(cases, core)


@pytest.mark.parametrize("core", PORTABLE)
def test_integer_convolutions_are_equal(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    """A third of the shapes on each core."""
    found = []
    turns = list(zip([*DENSE, *DEPTHWISE, *GROUPED], itertools.cycle(TURNS)))
    for w, (precision, out_bits, threads, extreme) in turns[PORTABLE.index(core) :: len(PORTABLE)]:
        request = Request(w, precision, out_bits if is_clamp(w.activation) else 8, features(resolve(core)), threads)
        family = fitting(request)[0]
        assert family.name.endswith("__generic")
        space = family.knob_space(request)
        found.append(make_case(Kernel(request, family, space[len(w.key) % len(space)]), rng, extreme))
    machine.check(found, core)


@pytest.mark.parametrize("core", ["cortex-a72", *PORTABLE])
def test_floats_are_close(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    machine.check([case(work, FP32, FLOAT_BITS, core, rng) for work in FLOATS], core, FLOAT_TOLERANCE)


def test_an_emulated_core_has_no_more_than_its_features(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    """Else a kernel that takes too much for granted would pass."""
    given = case(AddWorkload((1, 5, 7, 33), "relu"), W8A8, 8, "rv64gcv", rng)
    library, (name,) = machine.compile([given.kernel], "rv64gcv")
    machine.run(library, [(name, given.arguments())], "rv64gcv")
    with pytest.raises(AssertionError, match="on rv64gc: code"):
        machine.run(library, [(name, given.arguments())], "rv64gc")
