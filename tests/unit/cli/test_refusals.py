"""Bad input on the command line: one line, the right exit code, nothing on standard output, nothing begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpq_testing.command_line import Run, failed
from tvm_mpq.errors import FileFormatError, InvalidValueError


@pytest.mark.parametrize(
    "args",
    [
        ["no-such-command"],
        ["optimize"],
        ["optimize", "m.onnx"],  # no --out
        ["optimize", "m.onnx", "--out", "o", "--latency", "fast"],
        ["optimize", "m.onnx", "--out", "o", "--energy-mj", "3"],  # what it builds is measured, and gives no energies
        ["inspect", "m.onnx", "--threads", "0"],
        ["search", "m.onnx", "--points", "1"],
        ["search", "m.onnx", "--axis", "loss"],
        ["search", "m.onnx", "--method", "best"],
        ["optimize", "m.onnx", "--out", "o", "--solver-seconds", "0"],
        ["targets", "--no-such-option"],
        ["db", "export"],
        ["db", "prune", "--older-than-days", "1e300"],
    ],
)
def test_wrong_usage_exits_with_2(run: Run, args: list[str]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert "Usage:" in err and "Error:" in err and "Traceback" not in err


@pytest.mark.parametrize("text", ["x", "x=", "=1x2", "x=1,2", "x=1x-2", "x=0x3", "x=1x2.5"])
def test_sizes_that_are_none(run: Run, text: str) -> None:
    failed(run("inspect", "m.onnx", "--input-shape", text), "NAME=1x3x320x320", repr(text), code=2)


def test_sizes_given_twice(run: Run) -> None:
    failed(run("inspect", "m.onnx", "--input-shape", "x=1x3", "--input-shape", "x=1x3"), "'x' twice", code=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ("Expecting property name",)),
        ('{"plan": {}}', ("lacks latency_ms, operators",)),
        ('{"operators": [{"name": "a"}], "plan": {}, "latency_ms": {}}', ("report.operators[0] lacks",)),
        ('{"operators": 5, "plan": {}, "latency_ms": {}}', ("report.operators must be a list", "got 5")),
        ('{"operators": [], "plan": {}, "latency_ms": {"mixed": "fast"}}', ("report.latency_ms.mixed", "got 'fast'")),
    ],
)
def test_a_broken_report_is_said_in_one_line(run: Run, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "report.json").write_text(text)
    failed(run("report", tmp_path), "report.json", "optimize again", *words)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--latency", "0", ("latency_ratio", "above 0", "got 0")),
        ("--latency", "-1", ("latency_ratio", "above 0", "got -1")),
        ("--latency", "1.5", ("(0, 1]", "got 1.5")),
        ("--latency", "nan", ("latency_ratio", "got nan")),
        ("--latency-ms", "0", ("latency_ms", "above 0")),
        ("--size-mb", "-1", ("size_mb", "above 0")),
        ("--max-drop", "-1", ("max_drop", "0 or more")),
        ("--precisions", "w4a8,w4", ("w<bits>a<bits>", "'w4'")),
        ("--observer", "entropy", ("minmax, mse, output, percentile", "'entropy'")),
        ("--rounding", "stochastic", ("rounding must be one of nearest, gptq, adaround", "'stochastic'")),
    ],
)
def test_a_bad_value_is_found_before_anything_is_done(
    run: Run, tmp_path: Path, option: str, value: str, words: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    failed(run("optimize", tmp_path / "none.onnx", "--out", out, option, value), *words, code=2)
    assert not out.exists()


def test_an_unknown_precision(run: Run, tmp_path: Path) -> None:
    failed(run("build", "m.onnx", "--uniform", "w9a9", "--out", tmp_path / "o"), "[1, 8]", "w9a9", code=2)
    failed(run("build", "m.onnx", "--uniform", "int4", "--out", tmp_path / "o"), "w4a8", "int4", code=2)


@pytest.mark.parametrize(
    "args, words",
    [
        (["--methods", "ilp,best"], ("--methods takes all, or", "greedy", "'best'")),
        (["--budgets", "0.9,-1"], ("--budgets", "above 0", "'0.9,-1'")),
        (["--budgets", "half"], ("--budgets", "'half'")),
    ],
)
def test_compare_refuses_at_once(run: Run, args: list[str], words: tuple[str, ...]) -> None:
    failed(run("compare", "none.onnx", *args), *words, code=2)


def test_build_needs_a_precision_or_a_plan(run: Run, tmp_path: Path) -> None:
    failed(run("build", "m.onnx", "--out", tmp_path / "o"), "--uniform", "--plan")


@pytest.mark.parametrize("command", ["inspect", "optimize", "search"])
def test_a_missing_model(run: Run, tmp_path: Path, command: str) -> None:
    rest = ["--out", tmp_path / "o"] if command == "optimize" else []
    failed(run(command, tmp_path / "none.onnx", *rest), "none.onnx")


def test_a_file_that_is_no_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    failed(run("inspect", tmp_path / "m.onnx"), "m.onnx")


def test_an_unknown_target(run: Run, model: Path) -> None:
    failed(run("inspect", model, "--target", "cortexa72"), "cortexa72", "cortex-a72", "local")


def test_a_target_that_cannot_run_here(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("optimize", model, "--target", "rv64gc", "--out", tmp_path / "o")
    failed(result, "'rv64gc' needs riscv64", "TVM has no packages for riscv64", "--rpc", "'local'", "build --plan")


@pytest.mark.parametrize("command", ["optimize", "build", "demo"])
def test_an_output_folder_that_cannot_be_made(run: Run, tmp_path: Path, command: str) -> None:
    """Below a regular file: not even the super-user can write there."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    args: list[object] = [] if command == "demo" else ["m.onnx"]
    failed(run(command, *args, "--out", out), str(out), "--out")


def test_run_of_a_folder_that_holds_no_library(run: Run, tmp_path: Path) -> None:
    failed(run("run", tmp_path, "--data", __file__), "model.so", str(tmp_path))


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"x" * 5000])
def test_a_file_that_is_no_database(run: Run, model: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "db.sqlite"
    path.write_bytes(content)
    failed(run("db", "list", "--db", path), str(path), "not a latency database")
    failed(run("db", "import", model, "--db", path), str(path))
    failed(run("search", model, "--db", path), str(path))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; everything measured so far is kept"),
        (InvalidValueError("two\nlines"), 2, "error: two lines\n"),
        (FileFormatError("two\nlines"), 1, "error: two lines\n"),
        (ImportError("libtvm.so: no such file", name="tvm"), 1, "error: TVM cannot be imported"),
        (OSError(28, "No space left on device", "/tmp/x"), 1, "error: cannot write /tmp/x: No space left on device\n"),
    ],
)
def test_how_a_command_can_end(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail() -> list[dict[str, Any]]:
        raise error

    monkeypatch.setattr("tvm_mpq.targets.describe_rows", fail)
    found, out, err = run("targets")
    assert (found, out) == (code, "")
    assert err.strip("\n").count("\n") == 0 and message.strip() in err


def test_a_bug_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[dict[str, Any]]:
        raise ImportError("a module of ours", name="tvm_mpq.none")

    monkeypatch.setattr("tvm_mpq.targets.describe_rows", fail)
    with pytest.raises(ImportError):
        run("targets")


def test_bench_says_what_it_takes(run: Run, tmp_path: Path) -> None:
    for words, text, wanted in (
        (("--engines", "ours-int8,abacus"), "error: --engines takes ours-int8", 2),
        (("--threads", "1,zero"), "error: --threads takes whole numbers above 0 by commas (got '1,zero')", 2),
        ((), "error: ", 1),
    ):
        code, out, err = run("bench", str(tmp_path / "none.onnx"), *words)
        assert (code, out) == (wanted, "")
        assert err.startswith(text) and err.count("\n") == 1
