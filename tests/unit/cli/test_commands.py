"""The command line's shape: commands, their help, options and documentation, and what starting them loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from mpq_testing.command_line import Run, failed, one_object
from tvm_mpq import cli
from tvm_mpq.cli import values

ROOT = Path(__file__).parents[3]


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


def test_as_a_program(tmp_path: Path) -> None:
    """Once through the real entry point: exit code, streams, and a name that the terminal cannot show."""
    command = [sys.executable, "-m", "tvm_mpq.cli", "db", "list", "--db", str(tmp_path / "größe.sqlite")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no database at") and done.stderr.count("\n") == 1
