"""The command line's contract: exit codes, one-line errors, JSON on standard output, help and documentation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from tvm_mpq import cli
from tvm_mpq.cli import common, values
from tvm_mpq.errors import FileFormatError, InvalidValueError

ROOT = Path(__file__).parents[2]

Result = tuple[int, str, str]
"""Exit code, standard output, standard error."""

Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    """conv 3x3 + relu, then a linear layer: float32[1, 3, 8, 8] -> float32[1, 10]."""
    weights = {"w": (8, 3, 3, 3), "b": (8,), "fc": (8 * 8 * 8, 10)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "fc"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 10))],
        [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "tiny.onnx"
    onnx.save(made, str(path))
    return path


def walk(group: click.Group = cli.cli, prefix: str = "tvm-mpq") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from walk(command, f"{prefix} {name}")


COMMANDS = dict(walk())


def readme_section() -> str:
    match = re.search(r"^## Commands$(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    assert match, "README.md has no section 'Commands'"
    return match[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli.cli, [*name.split()[1:], "--help"])
    assert result.exit_code == 0
    command = COMMANDS[name]
    assert command.help
    undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    parent, _, last = name.rpartition(" ")
    section = readme_section()
    assert f"`{name}`" in section or f"`{name} " in section or (parent in section and f"`{last}`" in section)


def test_the_readme_names_no_command_that_is_not_there() -> None:
    named = set(re.findall(r"`(tvm-mpq [a-z]+(?: [a-z]+)?)`", readme_section()))
    assert named and named <= COMMANDS.keys()


def test_every_leaf_command_prints_json() -> None:
    lacking = [
        name
        for name, command in COMMANDS.items()
        if not isinstance(command, click.Group) and not any("--json" in p.opts for p in command.params)
    ]
    assert lacking == []


def test_observers_are_those_of_calibration() -> None:
    from tvm_mpq.calibrate.observers import METHODS
    from tvm_mpq.calibrate.rounding import ROUNDINGS
    from tvm_mpq.pipeline import options
    from tvm_mpq.select.methods import table

    assert sorted(values.OBSERVERS) == sorted(METHODS)
    assert values.ROUNDINGS == ROUNDINGS
    assert values.METHODS == table.METHODS
    assert values.REGULARISERS == options.REGULARISERS


@pytest.mark.parametrize("args", [["--help"], ["optimize", "--help"], ["targets", "--json"]])
def test_help_and_targets_do_not_load_tvm(args: list[str]) -> None:
    code = f"import sys; from tvm_mpq import cli; cli.main({args!r}); print('tvm' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr.strip() == "False"


def test_version() -> None:
    done = CliRunner().invoke(cli.cli, ["--version"])
    assert (done.exit_code, "0.1.0" in done.output) == (0, True)


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


MODEL_COMMANDS = ("inspect", "optimize", "search", "compare", "tune", "sensitivity", "build", "finetune", "bench")


def test_every_command_that_takes_a_model_takes_sizes_of_its_inputs() -> None:
    taking = {n.split()[-1] for n, c in COMMANDS.items() if any(p.name == "model" for p in c.params)}
    assert taking == set(MODEL_COMMANDS)
    for name in taking:
        assert any("--input-shape" in p.opts for p in COMMANDS[f"tvm-mpq {name}"].params), name


def test_sizes_of_dynamic_axes(run: Run, tmp_path: Path) -> None:
    """What the refusal prints can be typed, and inspect says what became of it."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("b", 3, "h", "w")) for n in ("a=b", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["a=b"], ["y"])], "free", values[:1], values[1:])
    path = tmp_path / "free.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    failed(run("inspect", path), "axes 2 (h) and 3 (w)", "--input-shape a=b=1x3x224x224 ")
    report = one_object(run("inspect", path, "--json", "--input-shape", "a=b=1x3x224x224"))
    assert report["inputs"] == {"a=b": [[1, 3, 224, 224], "float32"]}
    assert report["notes"] == ["sizes of input 'a=b' fixed to 1x3x224x224"]
    failed(run("inspect", path, "--input-shape", "a=b=1x4x8x8"), "'a=b' has shape ?x3x?x? in the model (got 1x4x8x8")
    failed(run("bench", path, "--input-shape", "z=1x3x8x8"), "unknown input 'z'", code=2)


@pytest.mark.parametrize("text", ["x", "x=", "=1x2", "x=1,2", "x=1x-2", "x=0x3", "x=1x2.5"])
def test_sizes_that_are_none(run: Run, text: str) -> None:
    failed(run("inspect", "m.onnx", "--input-shape", text), "NAME=1x3x320x320", repr(text), code=2)


def test_sizes_given_twice(run: Run) -> None:
    failed(run("inspect", "m.onnx", "--input-shape", "x=1x3", "--input-shape", "x=1x3"), "'x' twice", code=2)


def failed(result: Result, *words: str, code: int = 1) -> None:
    """Nothing on standard output, one `error:` line at the end, which holds all words. code: 2 for options' values."""
    assert result[:2] == (code, ""), result[2]
    err = result[2]
    *before, last = err.splitlines()
    assert last.startswith("error: ") and not any(line.startswith("error: ") for line in before)
    assert "Traceback" not in err
    for word in words:
        assert word in last


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


def test_a_report_is_shown_again_and_its_page_made(run: Run, tmp_path: Path) -> None:
    kept = {"operators": [], "plan": {}, "latency_ms": {"int8": 2.0, "mixed": 1.0}, "model": "net", "device": "cpu"}
    (tmp_path / "report.json").write_text(json.dumps(kept))
    code, out, _ = run("report", tmp_path)
    assert code == 0 and "net on cpu" in out and "2.00x" in out
    assert "<h1>net</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    names = {name: str(tmp_path / name) for name in ("report.html", "report.json")}
    assert one_object(run("report", tmp_path, "--json")) == {**kept, "artifacts": names}


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


def test_inspect_shows_the_precisions_chosen_among(run: Run, model: Path) -> None:
    code, out, _ = run("inspect", model, "--precisions", "w2a5, w4a8", "--target", "haswell", "--json")
    assert code == 0
    candidates = [o["candidates"] for o in json.loads(out)["operators"] if o["candidates"]]
    assert candidates and all(set(found) <= {"fp32", "w8a8", "w4a8", "w2a5"} for found in candidates)
    assert any("w2a5" in found for found in candidates)


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


def one_object(result: Result) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(out, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def test_inspect(run: Run, model: Path) -> None:
    report = one_object(run("inspect", model, "--json"))
    weighted = [o for o in report["operators"] if o["candidates"]]
    assert [o["kind"] for o in weighted] == ["conv2d", "linear"]
    assert [o["macs"] for o in weighted] == [8 * 8 * 8 * 27, 512 * 10]
    assert report["totals"]["quantizable"] == 2
    assert report["inputs"] == {"x": [[1, 3, 8, 8], "float32"]}
    code, out, err = run("inspect", model)
    assert code == 0, err
    for operator in report["operators"]:
        assert operator["name"] in out
    assert "error" not in err


def test_targets(run: Run) -> None:
    assert one_object(run("targets", "--json"))["targets"][0]["name"] == "local"
    code, out, err = run("targets")
    assert (code, err) == (0, "")
    assert "cortex-a72" in out


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == (0 if report["ok"] else 1)
    from tvm_mpq.pipeline import doctor

    lacking = {"name": "C++ compiler", "status": "missing", "detail": "none", "mend": "install one"}
    monkeypatch.setattr(doctor, "_compiler", lambda: lacking)
    monkeypatch.setattr(doctor, "_tvm", lambda: ({}, []))
    code, out, err = run("doctor")
    assert code == 1
    assert "missing C++ compiler: none\n        -> install one\n" in out
    assert err.startswith("error: ") and err.count("\n") == 1


def put_records(path: Path) -> None:
    from tvm_mpq.schema import LatencyKey, LatencyRecord
    from tvm_mpq.tuning.database.latencies import LatencyDatabase

    with LatencyDatabase(path) as database:
        for name, year, failure in (("old", 2020, None), ("new", 2999, None), ("bad", 2999, "crashed")):
            key = LatencyKey(f"{name}()", "w8a8", 8, "family", "{}", "local")
            median = None if failure else 1.5
            at = f"{year}-01-01T00:00:00+00:00"
            database.put(LatencyRecord(key, "dev", "0.27", "1", median, 0.1, 5, at, "measured", failure=failure))


def test_db(run: Run, tmp_path: Path) -> None:
    path, other, lines = tmp_path / "a.sqlite", tmp_path / "b.sqlite", tmp_path / "all.jsonl"
    put_records(path)

    def workloads(*args: object) -> set[str]:
        return {r["key"]["workload"] for r in one_object(run("db", "list", "--json", *args))["records"]}

    assert workloads("--db", path) == {"old()", "new()", "bad()"}
    assert workloads("--db", path, "--workload", "ol") == {"old()"}
    assert workloads() == set()  # the default database, in a cache folder of its own
    assert one_object(run("db", "export", lines, "--db", path, "--json"))["exported"] == 3
    assert one_object(run("db", "import", lines, "--db", other, "--json"))["imported"]["added"] == 3
    assert one_object(run("db", "merge", path, "--db", other, "--json"))["merged"]["kept"] == 3
    assert one_object(run("db", "verify", "--db", other, "--json"))["problems"] == []
    assert one_object(run("db", "prune", "--older-than-days", 30, "--db", other, "--json"))["pruned"] == 1
    assert workloads("--db", other) == {"new()", "bad()"}
    assert one_object(run("db", "prune", "--failures", "--db", other, "--json"))["pruned"] == 1
    assert workloads("--db", other) == {"new()"}
    assert run("db", "list", "--db", other)[1].endswith("1 records\n")
    failed(run("db", "prune", "--db", other), "condition", code=2)
    failed(run("db", "list", "--db", tmp_path / "none.sqlite"), "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_db_show(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    put_records(path)
    listed = {r["key"]["workload"]: r for r in one_object(run("db", "list", "--db", path, "--json"))["records"]}
    assert len({r["id"] for r in listed.values()}) == 3
    by_id = one_object(run("db", "show", listed["old()"]["id"], "--db", path, "--json"))["record"]
    assert by_id == {**listed["old()"], "device_identity": None}
    assert one_object(run("db", "show", "old", "--precision", "w8a8", "--db", path, "--json"))["record"] == by_id
    code, out, err = run("db", "show", "bad()", "--db", path)
    assert (code, err) == (0, "") and "crashed" in out and listed["bad()"]["id"] in out
    failed(run("db", "show", "()", "--db", path), "3 records match '()'", listed["new()"]["id"], code=2)
    failed(run("db", "show", "old", "--precision", "w4a8", "--db", path), "'old' at precision w4a8", "db list", code=2)


def test_json_has_no_infinity() -> None:
    given = {"a": [float("inf"), 1.5], 8: (float("nan"), "x", None)}
    assert common.finite(given) == {"a": [None, 1.5], "8": [None, "x", None]}


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


def test_as_a_program(tmp_path: Path) -> None:
    """Once through the real entry point: exit code, streams, and a name that the terminal cannot show."""
    command = [sys.executable, "-m", "tvm_mpq.cli", "db", "list", "--db", str(tmp_path / "größe.sqlite")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no database at") and done.stderr.count("\n") == 1


def test_bench_says_what_it_takes(run: Run, tmp_path: Path) -> None:
    for words, text, wanted in (
        (("--engines", "ours-int8,abacus"), "error: --engines takes ours-int8", 2),
        (("--threads", "1,zero"), "error: --threads takes whole numbers above 0 by commas (got '1,zero')", 2),
        ((), "error: ", 1),
    ):
        code, out, err = run("bench", str(tmp_path / "none.onnx"), *words)
        assert (code, out) == (wanted, "")
        assert err.startswith(text) and err.count("\n") == 1


def test_what_libraries_print_is_not_among_the_data() -> None:
    code = (
        "import os; from tvm_mpq import cli, targets;"
        "targets.describe_rows = lambda: [] if os.write(1, b'hello') else None;"
        "cli.main(['targets', '--json']); os.write(1, b'after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    data, _, after = done.stdout.rpartition("}")
    assert (json.loads(data + "}"), after, done.stderr) == ({"targets": []}, "\nafter", "hello")
