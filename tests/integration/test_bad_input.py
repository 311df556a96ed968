"""A user's mistake is one clear line, before anything is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import tvm_mpq as mpq
from mpq_testing import onnx_models
from tvm_mpq import errors, targets
from tvm_mpq.cli import cli
from tvm_mpq.costs import profiler

SHAPE = (1, 3, 8, 8)
GOOD = np.zeros((4, 3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(onnx_models.ends_in_conv(), str(path))
    return path


@pytest.fixture
def refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """refused(error, **what optimize is given) -> the message; nothing may be measured before it."""

    def measured(*args: Any, **options: Any) -> Any:
        raise AssertionError("measuring began before the mistake was found")

    monkeypatch.setattr(profiler, "measure_at", measured)

    def check(error: type[Exception], **given: Any) -> str:
        given = {"model": model, "db": tmp_path / "db", **given}
        with pytest.raises(error) as caught:
            mpq.optimize(given.pop("model"), **given)
        assert isinstance(caught.value, errors.MPQError)
        text = str(caught.value)
        assert text and "\n" not in text and len(text) < 600
        return text

    return check


Refused = Callable[..., str]


def spoiled(value: float) -> np.ndarray:
    x = np.zeros((4, 3, 8, 8), np.float32)
    x[2, 1, 0, 0] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_in_data_names_array_and_sample(refused: Refused, value: float) -> None:
    text = refused(errors.DataError, data={"x": spoiled(value)})
    assert "'x'" in text and "sample 2" in text


@pytest.mark.parametrize(("value", "named"), [(np.nan, "tensor 'last.weight'"), (np.inf, "operator 'last'")])
def test_nan_or_infinity_in_weights_names_where_it_is(
    refused: Refused, tmp_path: Path, value: float, named: str
) -> None:
    proto = onnx_models.ends_in_conv()
    (weight,) = [w for w in proto.graph.initializer if w.name == "last.weight"]
    array = numpy_helper.to_array(weight).copy()
    array[1, 2] = value
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(proto, str(tmp_path / "bad.onnx"))
    assert named in refused(errors.UnsupportedModelError, model=tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"y": GOOD}, ["'x'", "'y'"]),
        ({"x": GOOD, "z": GOOD}, ["'x'", "'z'"]),
        ({"x": GOOD.astype(np.float64)}, ["float32", "float64"]),
        ({"x": GOOD.astype(np.uint8)}, ["float32", "uint8"]),
        ({"x": GOOD[:, :, :4]}, ["(samples, 3, 8, 8)", "(4, 3, 4, 8)"]),
        ({"x": GOOD[0]}, ["(samples, 3, 8, 8)", "(3, 8, 8)"]),
        (GOOD[..., None], ["(samples, 3, 8, 8)", "(4, 3, 8, 8, 1)"]),
        ({"x": GOOD[:0]}, ["'x'", "empty", "at least one"]),
        ({"x": GOOD, "labels": np.zeros(3, np.int64)}, ["labels", "(4,)", "(3,)"]),
        ({"x": GOOD, "labels": np.zeros((4, 1), np.int64)}, ["labels", "(4,)", "(4, 1)"]),
        ({"x": GOOD, "labels": np.zeros(4, np.float32)}, ["labels", "integers", "float32"]),
        ({}, ["'x'"]),
    ],
)
def test_data_that_do_not_fit(refused: Refused, data: Any, words: list[str]) -> None:
    text = refused(errors.DataError, data=data)
    assert all(word in text for word in words), text
    text = refused(errors.DataError, data=GOOD, eval_data=data)  # evaluation data are checked as early
    assert all(word in text for word in words), text


def test_labels_need_a_network_that_classifies(refused: Refused) -> None:
    """This one gives a map of 5 channels per image."""
    text = refused(errors.DataError, data={"x": GOOD, "labels": np.zeros(4, np.int64)})
    assert "labels" in text


def test_data_files(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere.npz" in refused(errors.MissingFileError, data=tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    assert "text.npz" in refused(errors.FileFormatError, data=tmp_path / "text.npz")
    np.save(tmp_path / "bare.npy", GOOD)
    assert "numpy.savez" in refused(errors.FileFormatError, data=tmp_path / "bare.npy")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    refused(errors.FileFormatError, data=tmp_path / "objects.npz")
    np.savez(tmp_path / "cut.npz", x=np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:1000])
    refused(errors.FileFormatError, data=tmp_path / "cut.npz")


@pytest.mark.parametrize("name", ["latency_ratio", "latency_ms", "size_mb", "max_drop"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_budgets_out_of_range(name: str, value: float) -> None:
    if (name, value) == ("max_drop", 0.0):
        assert mpq.Budget(max_drop=0.0).max_drop == 0
        return
    with pytest.raises(errors.InvalidValueError, match=name) as caught:
        mpq.Budget(**{name: value})
    assert "\n" not in str(caught.value)


def test_a_ratio_above_one() -> None:
    with pytest.raises(errors.InvalidValueError, match=r"\(0, 1\].*got 1\.5.*latency_ms"):
        mpq.Budget(latency_ratio=1.5)


def test_unknown_names(refused: Refused) -> None:
    text = refused(errors.UnknownTargetError, target="cortex-a773")
    assert "did you mean 'cortex-a7" in text
    text = refused(errors.InvalidValueError, observer="average")
    assert "minmax" in text and "'average'" in text


@pytest.mark.parametrize("name", ["threads", "calibration_samples", "sensitivity_samples", "solver_time_limit_sec"])
def test_counts_below_one(refused: Refused, name: str) -> None:
    assert name in refused(errors.InvalidValueError, **{name: 0})


def test_a_target_this_cpu_cannot_run(refused: Refused) -> None:
    lacking = [name for name in targets.names() if targets.missing_features(targets.resolve(name))]
    assert lacking, "no CPU has the features of all targets"
    for name in lacking:
        text = refused(errors.TargetMismatchError, target=name)
        assert targets.missing_features(targets.resolve(name))[0] in text and "local" in text


def test_models_that_are_none(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere.onnx" in refused(errors.MissingFileError, model=tmp_path / "nowhere.onnx")
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 4)
    assert "noise.onnx" in refused(errors.FileFormatError, model=tmp_path / "noise.onnx")
    (tmp_path / "model.keras").write_bytes(b"x")
    refused(errors.UnsupportedModelError, model=tmp_path / "model.keras")
    refused(errors.FileFormatError, model=tmp_path)


def test_databases_that_are_none(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a letter, not a database\n" * 100)
    assert "text.db" in refused(errors.FileFormatError, db=tmp_path / "text.db")
    with pytest.raises(errors.MPQError, match=r"text\.db"):
        mpq.optimize("x.onnx", db=tmp_path / "text.db" / "inside.db")


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    from tvm_mpq.pipeline.result import Result

    (tmp_path / "file").write_text("")
    result = Result(mpq.Plan("local", {}, {}, {}), {}, TemporaryDirectory(dir=tmp_path))
    with pytest.raises(errors.OutputError, match="file/out") as caught:
        result.save(tmp_path / "file" / "out")
    assert "\n" not in str(caught.value)


def program(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cwd / "cache")}
    command = [sys.executable, "-m", "tvm_mpq.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("args", "word", "code"),
    [
        (["--data", "nan.npz"], "sample 2", 1),
        pytest.param(["--data", "nan.npz", "--target", "cortex-a773"], "did you mean", 1, marks=pytest.mark.slow),
        (["--latency", "0"], "latency_ratio", 2),
        pytest.param(["--out", "file/out"], "file/out", 1, marks=pytest.mark.slow),
    ],
)
def test_the_program_says_one_line(model: Path, tmp_path: Path, args: list[str], word: str, code: int) -> None:
    """Nothing on standard output, no traceback, exactly one line that is an error. code: 2 for options' values."""
    np.savez(tmp_path / "nan.npz", x=spoiled(np.nan))
    (tmp_path / "file").write_text("")
    done = program("optimize", model, *(["--out", "out"] if "--out" not in args else []), *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and word in lines[0]


@pytest.mark.parametrize(
    "args",
    [
        ["optimize", "none.onnx", "--data", "none.npz", "--out", "o"],
        ["optimize", "none.onnx", "--eval", "none.npz", "--out", "o"],
        ["compare", "none.onnx", "--eval", "none.npz"],
        ["bench", "none.onnx", "--data", "none.npz"],
        ["run", "none", "--data", "none.npz"],
    ],
)
def test_missing_data_are_named_before_the_model_is_read(args: list[str]) -> None:
    done = CliRunner().invoke(cli, args)
    assert isinstance(done.exception, errors.MissingFileError) and str(done.exception) == "no data file at 'none.npz'"
