"""Inputs of every kind, from data to a run of the built library: first axes that differ, none at all, integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tvm_mpq as mpq
from tvm_mpq.errors import DataError
from tvm_mpq.execute import network
from tvm_mpq.pipeline import Options, build_network, run
from tvm_mpq.tuning.devices.pool import ThisMachine
from tvm_mpq.tuning.measure.networks import WholeNetworkLatency

RUNS, BATCH = 3, 4
SHAPES = {"x": (BATCH, 8), "scale": (), "mask": (BATCH, 6), "step": (), "image": (2, 1, 6), "row": (1, 6)}
TYPES = {"x": "float32", "scale": "float32", "mask": "bool", "step": "int32", "image": "uint8", "row": "int64"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x @ w * scale * mask + step + image[0] + row"""
    weight = np.random.default_rng(0).normal(0, 0.3, (8, 6)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Mul", ["xw", "scale"], ["scaled"])]
    nodes += [helper.make_node("Gather", ["image", "first"], ["picture"], axis=0)]
    names = {"mask": "mask", "step": "step", "picture": "picture", "row": "row"}
    nodes += [helper.make_node("Cast", [n], [f"{n}_f"], to=TensorProto.FLOAT) for n in names]
    nodes += [helper.make_node("Mul", ["scaled", "mask_f"], ["sum0"])]
    for i, n in enumerate(("step_f", "picture_f", "row_f")):
        nodes.append(helper.make_node("Add", [f"sum{i}", n], [f"sum{i + 1}" if i < 2 else "y"]))
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[n])), s)
        for n, s in SHAPES.items()
    ]
    y = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (BATCH, 6))]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.int64(0), "first")]
    graph = helper.make_graph(nodes, "kinds", values, y, constants)
    path = tmp_path_factory.mktemp("inputs") / "kinds.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=(RUNS * BATCH, 8)).astype(np.float32),
        "scale": rng.uniform(1, 2, RUNS).astype(np.float32),
        "mask": rng.random((RUNS * BATCH, 6)) > 0.5,
        "step": np.arange(RUNS, dtype=np.int32),
        "image": rng.integers(0, 256, (RUNS, 2, 1, 6)).astype(np.uint8),
        "row": rng.integers(-9, 9, (RUNS, 6)),
    }


def sample(data: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    rows = slice(i * BATCH, (i + 1) * BATCH)
    whole = {n: np.asarray(data[n][i]) for n in ("scale", "step", "image")}
    found = {"x": data["x"][rows], "mask": data["mask"][rows], "row": data["row"][i : i + 1], **whole}
    return {name: found[name] for name in SHAPES}


def test_every_kind_of_input(
    model: Path,
    data: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "measure_network", lambda *_, **__: WholeNetworkLatency(1.0, 0.0, 1, 1.0, 1.0, 1))
    out = tmp_path / "out"
    build_network(Options(model, data=data, db=tmp_path / "db"), uniform="w8a8").save(out)
    np.savez(tmp_path / "data.npz", **data)
    report = run.run_folder(out, tmp_path / "data.npz", out)
    assert report["samples"] == RUNS and report["difference"]["largest_absolute"] == 0
    samples = [sample(data, i) for i in range(RUNS)]
    inputs = [list(s.values()) for s in samples]
    found = ThisMachine(1).do(lambda session: network.run_library(session, out / "model.so", inputs))
    reference = ReferenceEvaluator(str(model))
    for y, s in zip(found, samples, strict=True):
        (wanted,) = reference.run(None, s)
        assert y.shape == wanted.shape
        assert np.linalg.norm(y - wanted) <= 0.01 * np.linalg.norm(wanted)


def test_a_wrong_array_is_one_line(model: Path, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'scale' must have shape \(runs\) \(got \(3, 1\)\)"):
        mpq.optimize(model, data={**data, "scale": data["scale"][:, None]}, db=tmp_path / "db")
