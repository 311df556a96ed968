"""A whole network on CPUs that nobody runs TVM on: every tensor's integers are those that this CPU computes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.emulated import EmulatedMachine, architecture
from mpq_testing.emulated_network import run_network
from mpq_testing.lab import Lab
from mpq_testing.onnx_models import residual
from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.uniform import build_network
from tvm_mpq.schema import Plan


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("residual")
    onnx.save(residual(), str(folder / "residual.onnx"))
    return Lab(folder / "residual.onnx", folder / "kernels")


@pytest.mark.parametrize("core", ["rv64gc", "rv64gcv", "cortex-a7", "cortex-a72"])
def test_a_networks_integers_are_ours(lab: Lab, machine: EmulatedMachine, core: str) -> None:
    plan = lab.plan("w8a8", {lab.names[2]: "w4a8"})
    there = prepare(lab.model, target=core)
    steps = network.all_steps(there, plan)
    ours, theirs = lab.values(plan), run_network(machine, there.graph, steps, lab.samples[0], core)
    assert ours.keys() == theirs.keys()
    for step in steps:
        if isinstance(step, KernelStep):
            expected = ours[step.output]
            found = theirs[step.output][..., : expected.shape[-1]]
            np.testing.assert_array_equal(found, expected, err_msg=f"{step.node} on {core}")
            assert len(np.unique(expected)) > 3, "values that show something"


@pytest.mark.parametrize("core, elf_machine", [("rv64gcv", 243), ("cortex-a7", 40)])
def test_a_plan_made_here_is_built_for_a_cpu_that_is_not_here(
    lab: Lab, machine: EmulatedMachine, core: str, elf_machine: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels were named for this CPU: compiling them for another one would end the process."""
    folder = Path(machine.tools(architecture(core)).gcc).parent
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{folder}")
    plan = lab.plan("w8a8", {lab.names[2]: "w4a8"}, kernels={"a request": {"family": "of this CPU", "knobs": {}}})
    plan.save(tmp_path / "plan.json")
    said: list[str] = []
    options = Options(lab.model, target=core, db=tmp_path / "latency.db", say=said.append)
    result = build_network(options, uniform=None, plan=tmp_path / "plan.json")
    result.save(tmp_path / "out")
    made = Plan.load(tmp_path / "out" / "plan.json")
    assert (made.target, made.kernels, made.operators) == (core, {}, plan.operators)
    assert int.from_bytes((tmp_path / "out" / "model.so").read_bytes()[18:20], "little") == elf_machine
    assert any("its precisions and ranges are kept" in text for text in said)
