"""`optimize` from end to end on the emulated board: what it builds computes there what is defined here.

Quicker tests see the parts: test_board.py a kernel verified and timed there, test_network.py a network's integers on
that core and what is built for a CPU that is not here, tests/integration/test_lost_board.py `optimize` on boards, and
tests/unit/report/test_condition.py what is said of an emulated one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing.definition import is_integer, walk
from mpq_testing.emulated import BOARD_KEY, EmulatedMachine
from mpq_testing.onnx_models import OnnxNet
from mpq_testing.quick import measure_quickly
from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.numerics.saved_plan import load_plan
from tvm_mpq.passes.graph import Node
from tvm_mpq.passes.lowering import StoredValue
from tvm_mpq.pipeline.result import Result
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.tuning.devices.session import RpcSession
from tvm_mpq.tuning.measure.kernels import MeasureSettings

pytestmark = pytest.mark.slow

TARGET = "cortex-a72"
QUICK = MeasureSettings(repeats=5, min_repeat_ms=0.1, max_relative_iqr=1e6, max_drift=1e6)
SIZE_MB = 0.0022
"""What the weights take at 8 bit everywhere and a little; with either operator in floats they take more."""


def two_convolutions() -> onnx.ModelProto:
    net = OnnxNet({"x": (1, 3, 8, 8)})
    return net.model(net.conv(net.relu(net.conv("x", 3, 16, name="stem")), 16, 32, 1, name="last"))


@pytest.fixture(scope="module")
def optimized(
    tracker_port: int, machine: EmulatedMachine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path, np.ndarray]:
    """What was found for a network of two convolutions; its file; its data."""
    folder = tmp_path_factory.mktemp("board")
    onnx.save(two_convolutions(), str(folder / "model.onnx"))
    data = np.random.default_rng(3).normal(size=(4, 3, 8, 8)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch, QUICK)
        patch.setenv("PATH", f"{os.environ['PATH']}:{Path(machine.tools('aarch64').gcc).parent}")
        result = mpq.optimize(
            folder / "model.onnx", target=TARGET, data=data, budget=mpq.Budget(size_mb=SIZE_MB),
            precisions=("w8a8", "w4a8"), db=folder / "latency.db", rpc=f"127.0.0.1:{tracker_port}", key=BOARD_KEY,
        )  # fmt: skip
    return result, folder / "model.onnx", data


def test_what_was_built_computes_there_what_is_defined_here(
    optimized: tuple[Result, Path, np.ndarray], tracker_port: int
) -> None:
    result, model, data = optimized
    prepared = prepare(model, target=TARGET)
    steps = network.all_steps(prepared, result.plan, load_plan(result.folder)[1])
    assert is_integer(steps[:-1])
    with RpcSession("127.0.0.1", tracker_port, BOARD_KEY, tracker=True) as session:
        found = network.run_library(session, result.folder / "model.so", [[x[None]] for x in data])
    for x, output in zip(data, found, strict=True):
        held = walk(prepared.graph, steps, {prepared.graph.inputs[0]: x[None]}, channels_first)
        (name,) = prepared.graph.outputs
        np.testing.assert_array_equal(output, held[StoredValue(name, FLOAT_BITS)])
    assert len(np.unique(found)) > 50, "values that show something"


def channels_first(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """The last step: the map goes back to the layout of the model."""
    return inputs[0].transpose(0, 3, 1, 2)


def test_the_report_names_the_board(optimized: tuple[Result, Path, np.ndarray]) -> None:
    report = optimized[0].report
    assert report["device"].startswith("emulated aarch64|")
    assert report["boards"]["emulated"] and report["boards"]["lost"] == []
    assert report["latency_entries"]["measured"] > 0 and report["latency_entries"]["predicted"] == 0
    page = (optimized[0].folder / "report.html").read_text(encoding="utf-8")
    assert "The board is emulated" in page and f"Board: {report['boards']['used'][0]}" in page
