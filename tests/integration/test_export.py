"""A built folder runs without Python: exported, its C++ program compiled, its outputs those of Python, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpq_testing.cmake import build_program, need
from mpq_testing.lab import run_strangers
from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.errors import DataError, InvalidValueError, MissingFileError
from tvm_mpq.pipeline import Options, build_network, export_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs, one of bytes; three outputs, one of integers, by a function of TVM outside its core, a sort."""
    net = OnnxNet({"x": (1, 3, 8, 8)})
    logits = net.classifier(net.relu(net.conv("x", 3, 16, name="stem")), 16, 20)
    model = net.model(logits)
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("mask", TensorProto.UINT8, (1, 20)))
    graph.node.append(helper.make_node("Cast", ["mask"], ["mask_f"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Mul", [logits, "mask_f"], ["masked"]))
    graph.initializer.append(helper.make_tensor("many", TensorProto.INT64, (1,), [17]))
    graph.node.append(helper.make_node("TopK", ["masked", "many"], ["best", "which"]))
    graph.output.append(helper.make_tensor_value_info("best", TensorProto.FLOAT, (1, 17)))
    graph.output.append(helper.make_tensor_value_info("which", TensorProto.INT64, (1, 17)))
    folder = tmp_path_factory.mktemp("built")
    onnx.save(model, str(folder / "top.onnx"))
    options = Options(folder / "top.onnx", db=folder / "latency.db", verify_import=False)
    build_network(options, uniform="w8a8").save(folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    mask = rng.integers(1, 256, (2, 20)).astype(np.uint8)
    np.savez(path, x=rng.normal(size=(2, 3, 8, 8)).astype(np.float32), mask=mask)
    return path


def test_the_program_computes_what_python_computes(built: Path, data: Path, tmp_path: Path) -> None:
    report = export_folder(built, tmp_path / "made", data=data)
    out = tmp_path / "moved"
    (tmp_path / "made").rename(out)
    assert {file["path"]: file["bytes"] for file in report["on_device"]} == {
        path: (out / path).stat().st_size
        for path in ("model.so", "lib/libtvm_runtime.so", "lib/libtvm_ffi.so", "lib/libtvm_runtime_extra.so")
    }
    with np.load(data) as given:
        for path, name in zip(report["example"]["inputs"], ("x", "mask"), strict=True):
            np.testing.assert_array_equal(np.load(out / path), given[name][:1])
        np.savez(tmp_path / "in.npz", given["x"][:1], given["mask"][:1])
    job = {"library": str(out / "model.so"), "inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npz")}
    for path, expected in zip(report["example"]["outputs"], run_strangers([job], tmp_path)[0], strict=True):
        np.testing.assert_array_equal(np.load(out / path), expected)

    need("cmake", "g++")
    build_program(out, out / "build", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    done = subprocess.run(["cmake", "--install", "build"], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(out / "build")
    readme = (out / "README.md").read_text(encoding="utf-8")
    command = next(line.split() for line in readme.splitlines() if line.startswith("    ./run_model"))
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("bit for bit"), done.stderr) == (0, 3, "")

    inputs, outputs = report["example"]["inputs"], report["example"]["outputs"]
    wrong = np.load(out / outputs[0])
    wrong[0, 0] += 0.5
    np.save(out / "wrong.npy", wrong)
    for arguments, code, text in (
        ([*inputs, "--expect", "wrong.npy"], 1, "differs from wrong.npy by 0.5"),
        ([*inputs, "--expect", inputs[0]], 1, "holds 1x3x8x8"),
        ([*inputs, "--expect", "README.md"], 1, "README.md: not a .npy file"),
        (inputs[::-1], 1, "error: "),  # in the wrong order
        ([], 2, "usage: "),
    ):
        done = subprocess.run(["./run_model", "model.so", *arguments], cwd=out, capture_output=True, text=True)
        assert done.returncode == code and text in done.stdout + done.stderr, (arguments, done)


def test_the_example_in_the_tree_takes_the_installed_runtime(tmp_path: Path) -> None:
    need("cmake", "g++")
    build_program(ROOT / "examples" / "cpp", tmp_path / "build", f"-DPython3_EXECUTABLE={sys.executable}")
    done = subprocess.run([str(tmp_path / "build" / "run_model")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:"), "it starts: its libraries are found"


def test_without_data_the_example_is_synthetic(built: Path, tmp_path: Path) -> None:
    report = export_folder(built, tmp_path)
    assert [np.load(tmp_path / path).dtype for path in report["example"]["inputs"]] == [np.float32, np.uint8]


def test_what_cannot_be_exported(built: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="another one"):
        export_folder(built, built)
    with pytest.raises(MissingFileError, match=r"no model\.so"):
        export_folder(tmp_path, tmp_path / "out")
    np.savez(tmp_path / "other.npz", y=np.zeros((1, 2), np.float32))
    with pytest.raises(DataError, match="named after the model's inputs"):
        export_folder(built, tmp_path / "out", data=tmp_path / "other.npz")
    assert not (tmp_path / "out").exists()
