"""Mutation testing: a change is seen wherever tests can see it, and what is said not to matter still exists."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from mutation import ROOMS, changed_line, equivalent_changes, wilson
from mutation_trials import AT_ROOT, statement

ROOT = Path(__file__).parents[3]

CODE = """LIMIT = 3


def double(x):
    return x + x


def never(x):
    return x - 1


def count(n):
    while n > 0:
        n -= 1
    return n
"""

TESTS = """import subprocess
import sys

from tvm_mpq.room.numbers import LIMIT, count, double


def test_double():
    assert double(3) == 6


def test_count():
    assert count(2) == 0


def test_elsewhere():
    code = "from tvm_mpq.room.numbers import LIMIT; print(LIMIT)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "3\\n"
"""

SCRIPT = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import mutation_plugins
from mutation_trials import Trials
mutation_plugins.SLACK_SEC = 0.5
folder = Path(sys.argv[1])
trials = Trials(folder, "tvm_mpq/room", "tests/unit/room")
file = "tvm_mpq/room/numbers.py"
source = (folder / file).read_text()
found = []
for line, old, new in json.loads(sys.argv[2]):
    tests = trials.chosen(file, line, 100.0)
    outcome = trials.run(file, source.replace(old, new), tests) if tests else None
    found.append([len(tests), outcome and outcome.killed, outcome and outcome.by.split("::")[-1]])
print(json.dumps(found))
"""


def test_what_trials_see(tmp_path: Path) -> None:
    """Changes of one length within a second, hangs, what only a process started by a test sees, and nothing else."""
    for path in ("tvm_mpq/room", "tests/unit/room", "tests/support"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("tvm_mpq/__init__.py", "tvm_mpq/room/__init__.py"):
        (tmp_path / path).write_text("")
    (tmp_path / "tvm_mpq/room/numbers.py").write_text(CODE)
    (tmp_path / "tests/unit/room/test_numbers.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\n')
    changes = [
        (5, "x + x", "x - x"),
        (5, "x + x", "x * 2"),  # the same for every number
        (5, "x + x", "x * x"),
        (9, "x - 1", "x - 2"),  # no test runs it
        (13, "n -= 1", "n += 1"),  # for ever
        (1, "LIMIT = 3", "LIMIT = 4"),
    ]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(changes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [
        [1, True, "test_double"],
        [1, False, ""],
        [1, True, "test_double"],
        [0, None, None],
        [1, True, "test_count (time)"],
        [3, True, "test_elsewhere"],
    ]
    assert (tmp_path / "tvm_mpq/room/numbers.py").read_text() == CODE


LINES = """A = 1
def f(a,
      b=2):
    if (a or
            b):
        return (a +
                b)
    return [x
            for x in a]
"""


def test_statements() -> None:
    tree = ast.parse(LINES)
    found = {line: statement(tree, line) for line in range(1, 10)}
    assert found[1] is found[2] is found[3] is None, "at import"
    assert found[4] == found[5] == range(4, 6) and found[6] == found[7] == range(6, 8)
    assert found[8] == found[9] == range(8, 10)


def test_changed_lines() -> None:
    assert changed_line("a\n  b = 1\nc", "a\n  b = 2\nc") == ("b = 1", "b = 2")
    assert changed_line("@d\ndef f(): ...", "def f(): ...") == ("@d", "")


@pytest.mark.parametrize(("good", "count"), [(0, 10), (9, 10), (10, 10), (45, 50), (90, 100)])
def test_the_interval_holds_the_shares_that_are_not_refuted(good: int, count: int) -> None:
    """Its ends are where the share seen is 1.96 standard errors away, by the errors that these ends have."""
    for end in wilson(good, count):
        assert abs(good / count - end) == pytest.approx(1.96 * (end * (1 - end) / count) ** 0.5, abs=1e-12)


def test_what_is_said_not_to_matter_is_still_there() -> None:
    for (file, before, after), why in equivalent_changes().items():
        path = Path(*Path(file).parts[1:]) if Path(file).parts[1] in AT_ROOT else Path(file)
        lines = [line.strip() for line in (ROOT / path).read_text().splitlines()]
        assert before in lines and before != after and why, f"{file}: {before}"
        assert any(file.startswith(code) for code, _ in ROOMS.values())
