"""Lint, types, file sizes, and that the installed package is the whole package."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500
FREE_LINES = 300
WHY_LONG = "In one file:"
FOLDERS = ["tvm_mpq", "passes", "targets", "tuning"]
CODE = [*FOLDERS, "tests", "benchmarks", "examples"]


def run(*command: str, cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a user gets it, with passes/, targets/ and tuning/ in their places.

    Built from a copy: a build in the tree would leave a build/ folder there, whose stale files the next one would take.
    """
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--target", str(target), str(copy), cwd=copy)
    return target


def test_ruff(tmp_path: Path) -> None:
    run(sys.executable, "-m", "ruff", "check", "--cache-dir", str(tmp_path), *CODE, cwd=ROOT)


def test_mypy_strict(installed: Path, tmp_path: Path) -> None:
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    run(sys.executable, "-m", "mypy", *config, "-p", "tvm_mpq", cwd=installed)


def test_every_file_is_installed(installed: Path) -> None:
    expected = {
        Path("tvm_mpq", *path.relative_to(ROOT).parts[folder == "tvm_mpq" :])
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {path.relative_to(installed) for path in (installed / "tvm_mpq").rglob("*") if path.is_file()}
    missing = sorted(str(p) for p in expected - found)
    assert not missing, f"list the package (or its data) in pyproject.toml: {missing}"


def test_root_folders_import_under_their_names(installed: Path, tmp_path: Path) -> None:
    code = "import tvm_mpq.passes, tvm_mpq.targets, tvm_mpq.tuning"
    run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))


def test_every_doctest_is_collected(pytestconfig: pytest.Config) -> None:
    collected = [ROOT / path for path in pytestconfig.getini("testpaths")]
    examples = [p for folder in CODE for p in (ROOT / folder).rglob("*.py") if holds_doctest(p)]
    assert examples
    outside = [str(p.relative_to(ROOT)) for p in examples if not any(p.is_relative_to(c) for c in collected)]
    assert not outside, f"pytest runs no doctests there; add the folder to testpaths in pyproject.toml: {outside}"
    assert "--doctest-modules" in pytestconfig.getini("addopts")


def holds_doctest(path: Path) -> bool:
    return re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.M) is not None


def test_no_file_is_too_long() -> None:
    files = {str(path.relative_to(ROOT)): path for folder in CODE for path in (ROOT / folder).rglob("*.py")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    lengths = {name: len(text.splitlines()) for name, text in texts.items()}
    too_long = {name: n for name, n in lengths.items() if n > MAX_LINES}
    assert not too_long, f"split what has more than {MAX_LINES} lines: {too_long}"
    unexplained = [
        name
        for name, text in texts.items()
        if lengths[name] > FREE_LINES and WHY_LONG not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert not unexplained, f"above {FREE_LINES} lines a docstring says why, as {WHY_LONG!r} ...: {unexplained}"


def test_no_two_things_share_a_name() -> None:
    """Public classes and type aliases: a name means one thing wherever it is read."""
    places: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            where = path.relative_to(ROOT)
            for name in public_names(path.read_text(encoding="utf-8")):
                places.setdefault(name, []).append(str(where))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not shared, f"name each after what sets it apart: {shared}"


def public_names(source: str) -> list[str]:
    """Classes anywhere, and aliases of types (`Array = ...`) at the top of a file."""
    tree = ast.parse(source)
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper():
                names.append(target.id)
    return [name for name in names if not name.startswith("_")]


def test_public_names_are_found() -> None:
    source = (
        "class A:\n    class B: ...\nclass _C: ...\nAlias = dict[str, int]\nOther: object = int\nLIMIT = 3\nx = 1\n"
    )
    assert sorted(public_names(source)) == ["A", "Alias", "B", "Other"]
