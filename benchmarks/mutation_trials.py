"""A room's tests on one mutant after another: in a copy of the tree, each in a fork of a process that has the rest.

What makes an answer true: compiled files of the room are checked by the hash of their source, so a mutant is never
hidden by an older one; the copy comes first on the path of this process and of those that tests start; examples of
Hypothesis are the same in every run; and before any mutant, each file is replaced by one that raises, which must show.
"""

from __future__ import annotations

import ast
import compileall
import contextlib
import hashlib
import importlib
import json
import os
import py_compile
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from mutation_plugins import COLLECTION, Chosen, Watch

AT_ROOT = ("passes", "targets", "tuning")
OURS = ("tvm_mpq", "mpq_testing", "tests", "conftest", "test_")

WAIT_SEC = 1800.0
"""By the clock on the wall, after which a mutant is killed whose tests wait for ever."""

MOST_BYTES = 8 * 2**30
"""Of addresses beyond what is mapped before a mutant, which then fails for want of memory and not the machine."""


@dataclass(frozen=True)
class Baseline:
    """The room's tests without a change."""

    seconds: dict[str, float]
    """Of CPU, by test, with the processes it started."""
    reached: dict[str, frozenset[tuple[str, int]]]
    """Test -> the lines of the room it runs, as (file, line)."""
    modules: tuple[str, ...]
    """All that was imported and is not ours."""


@dataclass(frozen=True)
class Outcome:
    """Of one mutant."""

    killed: bool
    by: str
    """The test that failed, with `(time)` behind it where it was stopped."""


def copy_tree(root: Path, folder: Path, code: str, tests: str) -> None:
    """All code below `tvm_mpq/`, as it is installed, the room's tests and what these share with others."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "tvm_mpq", folder / "tvm_mpq", ignore=ignore)
    for name in AT_ROOT:
        shutil.copytree(root / name, folder / "tvm_mpq" / name, ignore=ignore)
    for name in ("tests/support", tests):
        shutil.copytree(root / name, folder / name, ignore=ignore)
    for above in Path(tests).parents:
        if (root / above / "conftest.py").exists():
            shutil.copy(root / above / "conftest.py", folder / above)
    shutil.copy(root / "pyproject.toml", folder)
    checked = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / code, quiet=1, invalidation_mode=checked)


def settle() -> None:
    """In a fork: numbers of Hypothesis that are the same in every run, and none that are shrunk."""
    name, phase = "mutation", hypothesis.Phase
    phases = (phase.explicit, phase.generate)
    health = list(hypothesis.HealthCheck)
    options = {
        "derandomize": True,
        "database": None,
        "deadline": None,
        "phases": phases,
        "suppress_health_check": health,
    }
    hypothesis.settings.register_profile(name, **options)
    hypothesis.settings.load_profile(name)


class Trials:
    """The tests of one room on changed files of `folder`, a copy of the tree that is the working directory."""

    def __init__(self, folder: Path, code: str, tests: str, kept: Path | None = None) -> None:
        self.folder, self.code, self.tests = folder, code, tests
        paths = [str(folder), str(folder / "tests" / "support")]
        sys.path[:0] = paths
        os.environ.update(PYTHONPATH=os.pathsep.join(paths), PYTHONDONTWRITEBYTECODE="1", TVM_NUM_THREADS="1")
        os.chdir(folder)
        self.baseline = self._baseline(kept)
        for name in self.baseline.modules:
            with contextlib.suppress(Exception):  # what a test made up
                importlib.import_module(name)
        sys.dont_write_bytecode = True

    def _pytest(self, plugin: object, files: Iterable[str]) -> int:
        settle()
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-o", "pythonpath=", "--basetemp=basetemp"]
        return int(pytest.main([*options, *files], plugins=[plugin]))

    def _fork(self, run: Callable[[], int], seconds: float) -> int | None:
        """`run` in a process of its own: what it returned, or None where a clock ended it."""
        child = os.fork()
        if child == 0:
            os.setsid()
            output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = 3
            try:
                code = run()
            finally:
                os._exit(code)
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):  # what its tests left behind
            os.killpg(child, signal.SIGKILL)
        if os.WIFSIGNALED(status):
            return None if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL) else -os.WTERMSIG(status)
        return os.WEXITSTATUS(status)

    def _files(self) -> dict[str, str]:
        """The room's files of tests, and of code for its doctests, each with a hash of all that its tests see."""
        code = sorted(self.folder.joinpath(self.code).rglob("*.py"))
        tests = sorted(self.folder.joinpath(self.tests).rglob("test_*.py"))
        shared = [p for p in self.folder.joinpath("tests").rglob("*.py") if p not in tests]
        common = hashlib.sha256(b"".join(path.read_bytes() for path in (*code, *sorted(shared))))
        found = {}
        for path in (*tests, *code):
            one = common.copy()
            one.update(path.read_bytes())
            found[str(path.relative_to(self.folder))] = one.hexdigest()
        return found

    def _baseline(self, kept: Path | None) -> Baseline:
        """Reads from and writes to `kept` what files of tests did that have not changed since."""
        known = json.loads(kept.read_text()) if kept and kept.exists() else {}
        files = self._files()
        missing = [file for file, seen in files.items() if known.get(file, {}).get("seen") != seen]

        def run() -> int:
            watch = Watch(self.folder / self.code)
            code = self._pytest(watch, missing)
            modules = [name for name in sys.modules if not name.startswith(OURS) and name != "__main__"]
            reached = {test: sorted(lines) for test, lines in watch.reached.items()}
            Path("baseline").write_text(json.dumps([watch.seconds, reached, modules]))
            return code

        if missing:
            if self._fork(run, 24 * 3600.0) not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
                raise SystemExit(f"tests fail without a change:\n{Path('output').read_text()[-3000:]}")
            seconds, reached, modules = json.loads(Path("baseline").read_text())
            for file in missing:
                own = {test: sec for test, sec in seconds.items() if test.split("::")[0] == file}
                lines = {test: reached[test] for test in own}
                known[file] = {"seen": files[file], "seconds": own, "reached": lines}
            known["collection"] = sorted({*map(tuple, known.get("collection", ())), *map(tuple, reached[COLLECTION])})
            known["modules"] = sorted({*known.get("modules", ()), *modules})
            if kept:
                kept.write_text(json.dumps(known))
        seconds = {test: sec for file in files for test, sec in known[file]["seconds"].items()}
        reached = {test: found for file in files for test, found in known[file]["reached"].items()}
        reached[COLLECTION] = known["collection"]
        lines = {test: frozenset((file, line) for file, line in found) for test, found in reached.items()}
        return Baseline(seconds, lines, tuple(known["modules"]))

    def chosen(self, file: str, line: int, longest_sec: float) -> list[str]:
        """Tests that run a line of `file`, those named after the file first, then the quickest; the first one always.

        For lines that run at import or collection, all tests, those that run anything of the file before the others.
        """
        lines = statement(ast.parse((self.folder / file).read_text()), line)
        seconds, reached = self.baseline.seconds, self.baseline.reached
        own = f"test_{Path(file).stem}.py"
        near = {test for test, found in reached.items() if any(name == file for name, _ in found)}
        wanted = {(file, i) for i in lines or ()}
        tests = {test for test, found in reached.items() if found & wanted}
        if lines is None or COLLECTION in tests:
            tests = set(seconds)
        order = sorted(tests, key=lambda t: (t not in near, own not in t, seconds[t]))
        kept, total = [], 0.0
        for test in order:
            total += seconds[test]
            if total > longest_sec and kept:
                break
            kept.append(test)
        return kept

    def run(self, file: str, source: str, tests: list[str]) -> Outcome:
        """Whether one of the tests fails with `source` in the place of `file`."""
        seconds = self.baseline.seconds
        path = self.folder / file
        before = path.read_text()

        def run() -> int:
            most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MOST_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            return self._pytest(Chosen(tests, seconds), dict.fromkeys(test.split("::")[0] for test in tests))

        Path("running").write_text("import")
        path.write_text(source)
        try:
            code = self._fork(run, WAIT_SEC)
        finally:
            path.write_text(before)
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise AssertionError(f"none of {tests} was found")
        return Outcome(code != 0, "" if code == 0 else Path("running").read_text() + " (time)" * (code is None))


def statement(tree: ast.Module, line: int) -> range | None:
    """Lines of the smallest statement around a line, without the statements inside it; None where it runs at import."""
    found, inside = None, False
    nodes: list[tuple[ast.AST, bool]] = [(tree, False)]
    while nodes:
        node, within = nodes.pop()
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.stmt):
                nodes.append((child, within))  # handlers of exceptions, cases, and expressions
                continue
            first = min([child.lineno, *(d.lineno for d in getattr(child, "decorator_list", ()))])
            if not first <= line <= (child.end_lineno or first):
                continue
            found, inside = child, within
            nodes.append((child, within or isinstance(child, ast.FunctionDef)))
    if found is None or not inside:
        return None
    body = getattr(found, "body", None)
    if isinstance(body, list) and body[0].lineno > line:
        return range(found.lineno, body[0].lineno)
    return range(found.lineno, (found.end_lineno or found.lineno) + 1)
