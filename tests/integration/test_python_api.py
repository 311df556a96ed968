"""A result in a user's hands: run, shown, listed, saved and loaded again."""

from __future__ import annotations

import dataclasses
import html
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing.lab import run_strangers
from mpq_testing.onnx_models import two_inputs, two_outputs
from tvm_mpq.errors import DataError, MissingFileError, TargetMismatchError
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.notebook import table, view


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, sharing: Callable[[Path], Path]) -> mpq.Result:
    folder = tmp_path_factory.mktemp("two")
    onnx.save(two_inputs(), str(folder / "two.onnx"))
    return mpq.build(folder / "two.onnx", uniform="w8a8", db=sharing(folder / "latency.db"))


def test_a_result_runs(result: mpq.Result, rng: np.random.Generator, tmp_path: Path) -> None:
    result.save(tmp_path)
    model = mpq.load_model(tmp_path)
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, (shape, dtype) in model.inputs.items()}
    np.savez(tmp_path / "in.npz", *arrays.values())
    job = {n: str(tmp_path / p) for n, p in (("library", "model.so"), ("inputs", "in.npz"), ("outputs", "out.npz"))}
    (expected,) = run_strangers([job], tmp_path)[0]
    for found in (result.run(arrays), model(list(arrays.values())), model.run(dict(reversed(arrays.items())))):
        np.testing.assert_array_equal(found, expected)
    assert model.plan == mpq.Plan.load(tmp_path / "plan.json") and "LoadedModel(" in repr(model)


def test_the_example_runs_a_file_of_samples(result: mpq.Result, rng: np.random.Generator, tmp_path: Path) -> None:
    inputs = mpq.load_model(result.folder).inputs
    arrays = {
        name: rng.normal(size=(3 * shape[0], *shape[1:])).astype(dtype) for name, (shape, dtype) in inputs.items()
    }
    np.savez(tmp_path / "samples.npz", **arrays)
    script = Path(__file__).parents[2] / "examples" / "run_batch.py"
    command = [sys.executable, str(script), str(result.folder), "samples.npz", "outputs.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:7]) == (0, "3 runs:"), done.stderr
    with np.load(tmp_path / "outputs.npz") as archive:
        found = archive["output0"]
    rows = {name: shape[0] for name, (shape, _) in inputs.items()}
    last = result.run({name: array[-rows[name] :] for name, array in arrays.items()})
    np.testing.assert_array_equal(found[-len(last) :], last)
    assert len(found) == 3 * len(last)


def test_several_outputs_are_a_list(tmp_path: Path, sharing: Callable[[Path], Path]) -> None:
    onnx.save(two_outputs(), str(tmp_path / "two.onnx"))
    found = mpq.build(tmp_path / "two.onnx", uniform="fp32", db=sharing(tmp_path / "latency.db"))
    model = mpq.load_model(found.folder)
    ((shape, dtype),) = model.inputs.values()
    outputs = found.run(np.zeros(shape, dtype))
    assert isinstance(outputs, list) and len(outputs) == 2 and all(isinstance(y, np.ndarray) for y in outputs)


def test_wrong_arrays_are_named(result: mpq.Result) -> None:
    model = mpq.load_model(result.folder)
    right = {name: np.zeros(shape, dtype) for name, (shape, dtype) in model.inputs.items()}
    first = next(iter(right))
    for given, text in (
        ({"z": right[first]}, "named as the inputs"),
        (right[first], "takes 2 arrays"),
        ({**right, first: right[first].astype(np.float64)}, rf"'{first}' is float32.*got float64"),
        ({**right, first: right[first][..., :-1]}, rf"input '{first}' is float32\["),
    ):
        with pytest.raises(DataError, match=text):
            model.run(given)


def test_what_cannot_be_loaded(result: mpq.Result, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        mpq.load_model(tmp_path)
    result.save(tmp_path)
    attrs = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64", "mattr": ["+m"]}
    dataclasses.replace(result.plan, tvm_target_attrs=attrs, target="rv64gc").save(tmp_path / "plan.json")
    with pytest.raises(TargetMismatchError, match="rv64gc, and this CPU lacks riscv64"):
        mpq.load_model(tmp_path)


def test_it_shows_itself(result: mpq.Result) -> None:
    assert result.table() == [{"operator": name, "precision": "w8a8"} for name in result.plan.operators]
    shown = result._repr_html_()
    assert "<table>" in shown and f"{len(result.plan.operators)} x w8a8" in shown


def test_the_page_of_optimize_stands_in_a_frame() -> None:
    """Escaped as a whole: its styles and names stay within."""
    candidates = {
        "w8a8": {"latency_us": {8: 3.0, 32: 4.0}, "loss": 0.1, "size_bytes": 9},
        "w4a8": {"latency_us": {8: 2.0}, "loss": 0.2, "size_bytes": 5},
    }
    report: OptimizeReport = {
        "model": 'a "quoted" <name>',
        "operators": [
            {"name": "c", "workload": "k", "precision": "w4a8", "candidates": candidates, "latency_us": 2.0, "macs": 1}
        ],
        "plan": {"c": "w4a8"},
        "latency_ms": {},
    }
    shown = view(report)
    match = re.fullmatch(r'<iframe srcdoc="([^"<>]*)" style="[^"]*"></iframe>', shown)
    assert match and html.unescape(match[1]).startswith("<!DOCTYPE html>")
    row = {
        "operator": "c",
        "precision": "w4a8",
        "workload": "k",
        "latency_us": 2.0,
        "latency_8bit_us": 3.0,
        "loss": 0.2,
    }
    assert table(report) == [row]
