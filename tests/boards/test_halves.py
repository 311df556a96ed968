"""Convolutions in halves on ARM equal their definition bit for bit, and are fmla of eight halves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm

from mpq_testing.conv_cases import DENSE, GROUPED, SAME, C
from mpq_testing.emulated import Case, EmulatedMachine
from tvm_mpq.kernels import Kernel, Request, default_kernel, families, fitting
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.float16 import LARGEST
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, FP16
from tvm_mpq.targets import features, resolve, to_tvm
from tvm_mpq.tuning.measure.verify import FLOAT_TOLERANCE, example_inputs, example_operands

CORE = "cortex-a76"
LAYER = C(1, 14, 14, 256, 256, (3, 3), (1, 1), SAME)
ROWS = {f.name: f for f in families() if f.name.endswith("fullfp16")}
WORKLOADS = [
    *(DENSE[i] for i in (0, 1, 6, 7, 9, 10)),
    GROUPED[1],
    C(1, 5, 6, 130, 8, (3, 3), (1, 1), SAME),  # a kernel row of several blocks, of two lengths
    C(1, 1, 3, 150, 17, (1, 1), residual=True),  # linear, some rows
    C(1, 5, 4, 80, 12, (3, 2), (1, 2), (1, 0, 0, 2), (1, 2)),  # columns that are not neighbours, of two blocks each
    C(1, 4, 4, 140, 20, (1, 1), groups=2),
]


def request(w: C, threads: int = 1, core: str = CORE) -> Request:
    return Request(w, FP16, FLOAT_BITS, features(resolve(core)), threads)


def case(kernel: Kernel, rng: np.random.Generator) -> Case:
    operands = example_operands(kernel, rng)
    return Case.of(kernel, operands, example_inputs(kernel, rng, operands))


def test_equals_the_definition(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    exact, close = [], []
    for turn, w in enumerate(WORKLOADS):
        r = request(w, threads=1 + turn % 2)
        (row,) = fitting(r)
        space = row.knob_space(r)
        found = case(Kernel(r, row, space[turn % len(space)]), rng)
        (exact if is_clamp(w.activation) else close).append(found)
    assert len(exact) == len(WORKLOADS) - 1
    machine.check(exact, CORE)
    machine.check(close, CORE, FLOAT_TOLERANCE)


def test_other_tiles_equal_the_definition(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    r = request(C(1, 7, 6, 48, 40, (3, 3), (1, 1), SAME, residual=True, activation="relu"))
    row = ROWS["f16_conv2d__fullfp16"]
    space = row.knob_space(r)
    assert len(space) == 10
    machine.check([case(Kernel(r, row, knobs), rng) for knobs in space[1::3]], CORE)


@pytest.mark.parametrize("core", ["cortex-a55", "neoverse-n2"])
def test_other_cores(machine: EmulatedMachine, core: str, rng: np.random.Generator) -> None:
    machine.check([case(default_kernel(request(w, core=core)), rng) for w in WORKLOADS[4:8:3]], core)


def test_nothing_overflows_and_nan_stays(machine: EmulatedMachine) -> None:
    """The greatest sums of both signs, inputs beyond the largest half, infinite ones, and weights of any size."""
    w = C(1, 3, 3, 24, 16, (3, 3), (1, 1), SAME)
    kernel = default_kernel(request(w))
    bias = np.zeros(16, np.float32)
    x = np.full((1, 3, 3, 24), LARGEST, np.float32)
    mixed = x.copy()
    mixed[0, 0, 0, :3] = 1e30, np.inf, -np.inf
    cases = []
    for size, sign in itertools.product((1e-20, 1.0, 3e4), (1, -1)):
        weight = np.full((16, 3, 3, 24), sign * size, np.float32)
        weight[3] = 0
        cases += [Case.of(kernel, Operands((None,), None, weight, bias), [data]) for data in (x, mixed)]
    for made in cases:
        assert np.isfinite(made.expected).all() and not made.expected[..., 3].any()
        assert made.expected[0, 1, 1, 0] == pytest.approx(9 * 24 * LARGEST * made.operands.weight[0, 0, 0, 0], rel=0.02)
    nan = x.copy()
    nan[0, 0, 0, 0] = np.nan
    cases.append(Case.of(kernel, Operands((None,), None, np.ones((16, 3, 3, 24), np.float32), bias), [nan]))
    assert np.isnan(cases[-1].expected[0, :2, :2]).all() and np.isfinite(cases[-1].expected[0, 2]).all()
    machine.check(cases, CORE)


def test_tiles_are_full_and_stay_in_registers() -> None:
    kernel = default_kernel(request(LAYER))
    assert kernel.knobs["rows"] * kernel.knobs["cols"] * kernel.knobs["blocks"] == 28
    module = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=to_tvm(resolve(CORE)))
    lines = [line.strip() for line in module.mod.inspect_source("s").splitlines()]
    last = max(i for i, line in enumerate(lines) if line.startswith("fmla") and ".8h" in line)
    first = max(i for i in range(last) if lines[i].startswith(".LBB"))
    loop = lines[first : last + 1]
    assert sum(line.startswith("fmla") and ".8h" in line for line in loop) == 28
    assert not [line for line in loop if "[sp" in line or line.startswith(("bl ", "fcvt"))]
