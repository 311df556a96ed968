"""What commands say beside their answer, and the shells that complete them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import onnx
import pytest

from mpq_testing import onnx_models
from tvm_mpq import cli

Run = Callable[..., tuple[int, str, str]]


def leaves(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{name} ")
        else:
            yield prefix + name, command


LEAVES = dict(leaves(cli.cli))


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_can_be_quiet_or_verbose(run: Run, name: str) -> None:
    assert {"--quiet", "--verbose"} <= {flag for p in LEAVES[name].params for flag in p.opts}
    code, out, err = run(*name.split(), "--quiet", "--verbose")
    assert (code, out) == (2, "") and "--quiet and --verbose exclude each other" in err


def test_quiet_and_verbose(run: Run, tmp_path: Path) -> None:
    """The answer is the same; only what is said beside it differs."""
    model = tmp_path / "small.onnx"
    net = onnx_models.OnnxNet({"x": (1, 3, 6, 6)})
    onnx.save(net.model(net.conv("x", 3, 4)), str(model))
    build = (
        "build",
        model,
        "--no-verify-import",
        "--uniform",
        "w8a8",
        "--json",
        "--db",
        tmp_path / "db",
        "--out",
        tmp_path / "o",
    )
    code, out, err = run(*build, "--verbose")
    assert code == 0 and re.search(r"^\d\d:\d\d:\d\d .* took [\d.]+ s$", err, re.M), err
    code, quiet, err = run(*build, "-q")
    assert (code, err) == (0, "") and json.loads(quiet)["plan"] == json.loads(out)["plan"]
    code, out, err = run(*build)
    assert code == 0 and err and " took " not in err  # and what one call wanted is forgotten in the next


def test_verbose_shows_where_an_error_comes_from(run: Run, tmp_path: Path) -> None:
    code, out, err = run("inspect", tmp_path / "none.onnx", "-v")
    assert (code, out) == (1, "") and "Traceback" in err and err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(run: Run, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    """As README says; in this process the program has pytest's name, and must give its own."""
    monkeypatch.setenv("_TVM_MPQ_COMPLETE", f"{shell}_source")
    code, out, _ = run()
    assert code == 0 and "_TVM_MPQ_COMPLETE" in out and "tvm-mpq" in out
    words = {"COMP_WORDS": "tvm-mpq opt", "COMP_CWORD": "1" if shell != "fish" else "opt"}
    monkeypatch.setenv("_TVM_MPQ_COMPLETE", f"{shell}_complete")
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    assert "optimize" in run()[1]
