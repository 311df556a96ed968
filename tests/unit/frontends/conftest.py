"""Small models built on the spot, and running what came out of the import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvm_mpq.frontends import Loaded

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 0})  # quick to compile; the models are small

Run = Callable[..., list[np.ndarray]]
SaveOnnx = Callable[..., Path]

ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


@pytest.fixture
def run() -> Run:
    """Compile a module without any of our passes, and run it."""

    def run(loaded: Loaded, *inputs: np.ndarray) -> list[np.ndarray]:
        executable = tvm.compile(loaded.mod, target=TARGET)
        out = relax.VirtualMachine(executable, tvm.cpu())["main"](*[tvm.runtime.tensor(x) for x in inputs])
        return [t.numpy() for t in (out if not isinstance(out, tvm.runtime.Tensor) else [out])]

    return run


@pytest.fixture
def save_onnx(tmp_path: Path) -> SaveOnnx:
    """save_onnx(nodes, inputs={name: (shape, dtype)}, weights={name: array}, outputs=names) -> path."""

    def save(
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, tuple[Sequence[int | str | None], str]],
        weights: Mapping[str, np.ndarray] | None = None,
        outputs: Sequence[str] = ("y",),
        opset: int = 17,
        name: str = "model.onnx",
    ) -> Path:
        graph = helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info(n, ELEMENT[d], s) for n, (s, d) in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return save


def operators(loaded: Loaded) -> dict[str, str]:
    """Variable name -> operator, in order; "" for what is not a call."""
    found = {}
    for block in loaded.mod["main"].body.blocks:
        for binding in block.bindings:
            value: Any = binding.value
            found[str(binding.var.name)] = str(value.op.name) if isinstance(value, relax.Call) else ""
    return found


@pytest.fixture(name="operators")
def operators_fixture() -> Callable[[Loaded], dict[str, str]]:
    return operators
