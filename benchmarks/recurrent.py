"""Networks at fp32 against ONNX Runtime, one thread, in turns: recurrent layers, or the ONNX files that are named.

    python benchmarks/recurrent.py [FILE.onnx ...] [--rounds 60]

Prints for each the median of the rounds' ratios (ours / ONNX Runtime, below 1 is faster), and both medians. Layers have
128 units and 100 steps of 128 features.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.schema import Plan

STEPS, UNITS = 100, 128
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(kind: str, directions: int = 1, batch: int = 1, **attrs: Any) -> onnx.ModelProto:
    """A recurrent layer of random weights."""
    rng = np.random.default_rng(0)
    rows = GATES[kind] * UNITS
    shapes = {"W": (directions, rows, UNITS), "R": (directions, rows, UNITS), "B": (directions, 2 * rows)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.1, s).astype(np.float32), n) for n, s in shapes.items()]
    direction = "bidirectional" if directions > 1 else "forward"
    node = helper.make_node(kind, ["x", *shapes], ["y"], hidden_size=UNITS, direction=direction, **attrs)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, batch, UNITS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], kind, [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


LAYERS = {
    "lstm": layer("LSTM"),
    "lstm, both directions": layer("LSTM", 2),
    "lstm, batch 8": layer("LSTM", batch=8),
    "gru": layer("GRU"),
    "gru, linear before reset": layer("GRU", linear_before_reset=1),
    "rnn": layer("RNN"),
}


def ours(path: Path, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """The network built at fp32, ready to run."""
    prepared = prepare(path)
    plan = Plan(prepared.row.name, prepared.tvm_target_attrs, {n.name: "fp32" for n in prepared.graph.weighted()}, {})
    executable = network.compile_network(network.realize(prepared, plan), prepared.tvm_target())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        executable.export_library(str(library))
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    machine.set_input("main", *(tvm.runtime.tensor(inputs[name]) for name in prepared.inputs))
    run = machine.module["invoke_stateful"]
    return lambda: run("main")


def theirs(path: Path, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def elapsed_us(run: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times * 1e6


def compare(name: str, path: Path, rounds: int) -> None:
    """Print one line."""
    rng = np.random.default_rng(1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {i.name: rng.normal(0, 1, i.shape).astype(np.float32) for i in session.get_inputs()}
    runs = [ours(path, inputs), theirs(path, inputs)]
    times = [max(1, int(2000 / min(elapsed_us(run, 2) for _ in range(3)))) for run in runs]
    found = [[elapsed_us(run, n) for run, n in zip(runs, times, strict=True)] for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in found)
    mine, other = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"{name:28} {ratio:6.2f}   ours {mine:9.1f} us   ONNX Runtime {other:9.1f} us", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    for path in arguments.files:
        compare(path.stem, path, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for name, model in () if arguments.files else LAYERS.items():
            path = Path(folder) / "layer.onnx"
            onnx.save(model, str(path))
            compare(name, path, arguments.rounds)


if __name__ == "__main__":
    main()
