"""Networks linked from kernels that were compiled before: the same networks as those that are compiled whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mpq_testing.lab import Lab, run_strangers
from mpq_testing.slowly import slow_but
from tvm_mpq.errors import OutputError
from tvm_mpq.execute import network
from tvm_mpq.execute.linking import linked
from tvm_mpq.execute.profile import KernelCall
from tvm_mpq.passes.lowering import KernelStep


class Twice(torch.nn.Module):
    """Two layers that share a kernel, and a float operator that no kernel computes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for layer in self.layers:
            x = torch.relu(layer(x))
        means = torch.cumsum(x.mean((2, 3)), 1)
        return torch.sort(torch.cumsum(means.unsqueeze(2), 1).squeeze(2), 1)[0]


@pytest.fixture(scope="module", params=slow_but([1, 2], 2))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """For so many threads; all networks that tests build for one thread are linked too."""
    torch.manual_seed(0)
    example = (torch.zeros(1, 3, 8, 8),)
    kernels = tmp_path_factory.mktemp("kernels")
    return Lab(Twice().eval(), kernels, example_inputs=example, threads=request.param)


@pytest.mark.parametrize("precision", slow_but(["w8a8", "w4a8", "fp32"], "w8a8", "fp32"))
def test_a_linked_network_is_the_one_compiled_whole(lab: Lab, precision: str, tmp_path: Path) -> None:
    plan = lab.plan(precision)
    expected = lab.interpret(plan)  # compiles what is linked
    mod = network.realize(lab.prepared, plan)
    lab.store.compile([lab.store.source_of(func) for func, _ in network.float_functions(mod)])  # as for their times
    assert len(linked(mod, lab.store).objects) >= 2
    whole = network.build(lab.prepared, plan, tmp_path / "whole.so")
    parts = network.build(lab.prepared, plan, tmp_path / "parts.so", None, lab.store)
    assert parts.activation_bytes == whole.activation_bytes
    assert [dataclasses.replace(call, symbol="") for call in parts.calls] == list(whole.calls)
    assert [call.symbol for call in parts.calls if call.symbol]
    jobs = []
    np.savez(tmp_path / "inputs.npz", *lab.samples[0].values())
    for built in (whole, parts):
        out = built.path.with_suffix(".npz")
        jobs.append({"library": str(built.path), "inputs": str(tmp_path / "inputs.npz"), "outputs": str(out)})
    for found in run_strangers(jobs, tmp_path, lab.prepared.threads):
        np.testing.assert_array_equal(found[0], expected[0])


def test_what_the_store_lacks_is_compiled(lab: Lab, tmp_path: Path) -> None:
    """One kernel is held, the others are not."""
    plan = lab.plan("w8a8")
    expected = lab.interpret(plan)
    whole = linked(network.realize(lab.prepared, plan), lab.store)
    held, *gone = whole.objects
    try:
        for path in gone:
            path.rename(path.with_suffix(".aside"))
        assert linked(network.realize(lab.prepared, plan), lab.store).objects == (held,)
        found = lab.run_built([plan], tmp_path)
    finally:
        for path in gone:
            path.with_suffix(".aside").rename(path)
    np.testing.assert_array_equal(found[0][0], expected[0])


def test_an_object_that_is_damaged_is_told_in_one_line(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan("w8a8")
    lab.interpret(plan)
    path = linked(network.realize(lab.prepared, plan), lab.store).objects[0]
    whole = path.read_bytes()
    try:
        path.unlink()
        path.write_bytes(whole[:100])
        with pytest.raises(OutputError, match="cannot link library") as caught:
            network.build(lab.prepared, plan, tmp_path / "model.so", None, lab.store)
    finally:
        path.write_bytes(whole)
    assert "\n" not in str(caught.value)


def test_a_library_of_an_earlier_release_gets_its_object(lab: Lab) -> None:
    plan = lab.plan("w8a8")
    lab.interpret(plan)
    path = linked(network.realize(lab.prepared, plan), lab.store).objects[0]
    path.unlink()
    kernels = [step.kernel for step in lab.steps(plan) if isinstance(step, KernelStep)]
    lab.store.compile([lab.store.source(kernel) for kernel in kernels])
    assert path.exists()


def test_calls_are_read_as_they_were_written() -> None:
    arrays = (((1, 8), "float32"),)
    for call in (KernelCall("conv", "conv2d_w8a8_0", arrays), KernelCall("conv", "conv2d_w8a8_0", arrays, "k_1")):
        assert KernelCall.from_json(json.loads(json.dumps(call.to_json()))) == call
