"""A whole network on CPUs that nobody runs TVM on: every tensor's integers are those that this CPU computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from mpq_testing.emulated import EmulatedMachine
from mpq_testing.emulated_network import run_network
from mpq_testing.lab import Lab
from mpq_testing.onnx_models import residual
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.pipeline import network
from tvm_mpq.pipeline.prepare import prepare


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
