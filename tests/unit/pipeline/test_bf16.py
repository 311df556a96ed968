"""A network at bf16: lowered, searched, built, and right by its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.definition import assert_steps_follow_the_definition
from mpq_testing.lab import Lab
from mpq_testing.onnx_models import depthwise_and_shortcut
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.pipeline.problem import Space, build_problem
from tvm_mpq.pipeline.uniform import running_at, uniform_precisions
from tvm_mpq.schema import BF16, FLOAT_BITS, Precision
from tvm_mpq.select.ilp import Limits, solve

pytestmark = pytest.mark.isa("avx512bf16")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Convolutions with and without a shortcut; a depthwise one and a classifier, for which there is no bf16."""
    folder = tmp_path_factory.mktemp("bf16")
    onnx.save(depthwise_and_shortcut(8, 32), str(folder / "net.onnx"))
    return Lab(folder / "net.onnx", folder / "kernels")


def uniform(lab: Lab) -> dict[str, str]:
    return uniform_precisions(lab.prepared, BF16, (), running_at(lab.prepared, BF16))


def test_what_has_no_bf16_stays_float32(lab: Lab) -> None:
    assert uniform(lab) == {"stem": "bf16", "depthwise": "fp32", "block": "bf16", "fc": "fp32"}


def test_the_library_is_the_definition(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan("fp32", uniform(lab))
    steps = lab.steps(plan)
    assert all(s.output.bits == FLOAT_BITS for s in steps if isinstance(s, KernelStep))
    assert_steps_follow_the_definition(lab.graph, steps, lab.values(plan))
    (built,) = lab.run_built([plan], tmp_path)[0]
    np.testing.assert_array_equal(built, lab.interpret(plan)[0])
    (exact,) = lab.interpret(lab.plan("fp32"))
    assert 1e-5 < abs(built - exact).max() / abs(exact).max() < 0.02  # each operand is rounded by up to 2^-9


def test_the_solver_weighs_it(lab: Lab) -> None:
    """bf16 reads and writes float tensors: between fp32 operators it needs no boundary."""
    times = {"fp32": 10.0, "bf16": 5.0}
    losses = {(n.name, c): 0.01 if c == "bf16" else 1.0 for n in lab.graph.weighted() for c in n.candidates[1:]}
    problem = build_problem(
        Space(lab.graph, lab.prepared.features, 1),
        lambda request: times.get(str(request.precision), 4.9),
        LatencyTable("default kernels"),
        losses,
        fixed_us=0.0,
        call_us=0.0,
    )
    choices = {c.label: c for c in problem.operator("block").choices}
    assert choices["bf16"].in_bits == FLOAT_BITS
    assert choices["bf16"].size_bytes < 0.55 * choices["fp32"].size_bytes
    exact = solve(problem, objective="loss")
    faster = solve(problem, Limits(latency_us=exact.latency_us - 10.0), objective="loss")
    assert {n for n, label in faster.choices.items() if label == "bf16"} == {"stem", "block"}
    assert all(Precision.parse(faster.choices[n]).is_float for n in lab.names)
