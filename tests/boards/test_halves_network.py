"""A network at fp16 for an ARM core that is not here: built by the command line, right by its definition."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import onnx
import pytest

from mpq_testing.definition import assert_steps_follow_the_definition
from mpq_testing.emulated import EmulatedMachine
from mpq_testing.emulated_network import run_network
from mpq_testing.onnx_models import depthwise_and_shortcut
from tvm_mpq.cli import cli
from tvm_mpq.errors import NoKernelError
from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.passes.lowering import KernelStep, StoredValue
from tvm_mpq.schema import FLOAT_BITS, FP16, FP32, Plan

CORE = "cortex-a76"
PRECISIONS = {"stem": "fp16", "depthwise": "fp32", "block": "fp16", "fc": "fp16"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(depthwise_and_shortcut(8, 24), str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


@pytest.fixture
def build(model: Path, tmp_path: Path) -> Callable[..., click.testing.Result]:
    def run(*options: str) -> click.testing.Result:
        fixed = [
            "build",
            str(model),
            "--db",
            str(tmp_path / "l.db"),
            "--out",
            str(tmp_path / "out"),
            "--no-verify-import",
        ]
        return click.testing.CliRunner().invoke(cli, [*fixed, *options])

    return run


def test_built_without_the_device_and_right_there(
    build: Callable[..., click.testing.Result],
    model: Path,
    machine: EmulatedMachine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{Path(machine.tools('aarch64').gcc).parent}")
    done = build("--target", CORE, "--uniform", "fp16")
    assert done.exit_code == 0, done.output
    assert "no kernel of its own for fp16: depthwise at fp32" in done.output
    plan = Plan.load(tmp_path / "out" / "plan.json")
    assert plan.operators == PRECISIONS and plan.tensors == {}
    assert int.from_bytes((tmp_path / "out" / "model.so").read_bytes()[18:20], "little") == 183  # of aarch64

    there = prepare(model, target=CORE)
    sample = {
        name: rng.standard_normal(there.graph.tensors[name].shape).astype(np.float32) for name in there.graph.inputs
    }
    outputs = {}
    for precision in ("fp16", "fp32"):
        chosen = Plan(
            CORE, plan.tvm_target_attrs, PRECISIONS if precision == "fp16" else dict.fromkeys(PRECISIONS, "fp32"), {}
        )
        steps = network.all_steps(there, chosen)
        values = run_network(machine, there.graph, steps, sample, CORE)
        kernels = [s.kernel.request.precision for s in steps if isinstance(s, KernelStep)]
        assert kernels.count(FP16) == (3 if precision == "fp16" else 0) and set(kernels) <= {FP16, FP32}
        logical = {v: x.reshape(there.graph.tensors[v.tensor].shape) for v, x in values.items()}
        assert_steps_follow_the_definition(there.graph, steps, logical)
        outputs[precision] = values[StoredValue(there.graph.outputs[0], FLOAT_BITS)]
    off = abs(outputs["fp16"] - outputs["fp32"]).max() / abs(outputs["fp32"]).max()
    assert 1e-6 < off < 0.004


@pytest.mark.parametrize("target", ["haswell", "cortex-a72"])
def test_refused_in_one_line_elsewhere(
    build: Callable[..., click.testing.Result],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
) -> None:
    if target.startswith("cortex"):  # without its linker that would be refused first
        tools = request.getfixturevalue("machine").tools("aarch64")
        monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{Path(tools.gcc).parent}")
    refused = build("--target", target, "--uniform", "fp16").exception
    assert isinstance(refused, NoKernelError)
    assert "no operator has a kernel for fp16 on this target (its kernels need" in str(refused)
    assert "fullfp16" in str(refused) and "targets cortex-a55, cortex-a76" in str(refused) and "\n" not in str(refused)
