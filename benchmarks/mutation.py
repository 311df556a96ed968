"""Mutation testing: does a wrong operator, constant or condition in a room make any of its tests fail?

    python -m venv /somewhere/cosmic && /somewhere/cosmic/bin/pip install cosmic-ray
    python benchmarks/mutation.py --cosmic-ray /somewhere/cosmic/bin --room numerics --mutants 200 --seed 0

cosmic-ray, in an environment of its own, changes one place of a room's code at a time in a copy of the tree, and runs
the room's unit tests on it. A mutant whose tests fail is killed; survivors are printed with their lines, and a person
decides whether a test is missing or the change means nothing. `--mutants` draws so many of all; without it all are
tried, which takes hours: a job for the night. Changes of type unions (`|`) are left out: annotations are not evaluated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
AT_ROOT = ("passes", "targets", "tuning")
ROOMS = {
    "numerics": (["tvm_mpq/numerics"], ["tests/unit/numerics"]),
    "select": (["tvm_mpq/select"], ["tests/unit/select"]),
    "records": (["tvm_mpq/tuning/database"], ["tests/unit/tuning/database"]),
}
"""Room -> its code and its tests, as they stand in the copy."""

TEST_SEC = 600.0
"""After which a mutant whose tests hang is killed too."""

CONFTEST = """
import numpy as np
import pytest

@pytest.fixture
def rng():
    return np.random.default_rng(20240)
"""
"""In the place of the tests' own, which imports TVM: for seconds, once a mutant."""

CONFIG = """
[cosmic-ray]
module-path = {modules}
timeout = {seconds}
excluded-modules = ["**/__init__.py"]
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""


def copy_tree(folder: Path, tests: str) -> None:
    """All code below `tvm_mpq/`, as it is installed, and the room's tests."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tvm_mpq", folder / "tvm_mpq", ignore=ignore)
    for name in AT_ROOT:
        shutil.copytree(ROOT / name, folder / "tvm_mpq" / name, ignore=ignore)
    shutil.copytree(ROOT / tests, folder / tests, ignore=ignore)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = . {ROOT / 'tests' / 'support'}\n")


def draw(session: Path, count: int | None, seed: int) -> int:
    """Leave `count` mutants in a session; returns how many are left."""
    with contextlib.closing(sqlite3.connect(session)) as db, db:
        done = {row[0] for row in db.execute("SELECT job_id FROM work_results")}  # those that a filter skips
        jobs = sorted({row[0] for row in db.execute("SELECT job_id FROM work_items")} - done)
        kept = jobs if count is None else random.Random(seed).sample(jobs, min(count, len(jobs)))
        for table in ("mutation_specs", "work_results", "work_items"):
            db.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(j,) for j in {*jobs, *done} - set(kept)])
    return len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cosmic-ray", type=Path, required=True, help="folder of its programs")
    parser.add_argument("--room", choices=ROOMS, default="numerics")
    parser.add_argument("--only", default="", help="files of the room, by commas; with the tests named after them")
    parser.add_argument("--mutants", type=int)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    (code,), (tests,) = ROOMS[asked.room]
    names = [name for name in asked.only.split(",") if name]
    modules = [f"{code}/{name}.py" for name in names] or [code]
    run_tests = [f"{tests}/test_{name}.py" for name in names] or [tests]
    with tempfile.TemporaryDirectory(prefix="mutation_") as name:
        folder = Path(name)
        copy_tree(folder, tests)
        config, session = folder / "config.toml", folder / "session.sqlite"
        text = CONFIG.format(
            modules=json.dumps(modules), seconds=TEST_SEC, python=sys.executable, tests=" ".join(run_tests)
        )
        config.write_text(text)

        def run(program: str, *arguments: object) -> str:
            command = [str(asked.cosmic_ray / program), *map(str, arguments)]
            return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout

        run("cosmic-ray", "baseline", config)
        run("cosmic-ray", "init", config, session)
        run("cr-filter-operators", session, config)
        count = draw(session, asked.mutants, asked.seed)
        print(f"{asked.room}: {count} mutants", flush=True)
        run("cosmic-ray", "exec", config, session)
        report(session, folder)


def report(session: Path, folder: Path) -> None:
    query = (
        "SELECT r.test_outcome, s.module_path, s.start_pos_row, s.operator_name, r.diff FROM work_results r "
        "JOIN mutation_specs s ON s.job_id = r.job_id ORDER BY s.module_path, s.start_pos_row"
    )
    with contextlib.closing(sqlite3.connect(session)) as db:
        rows = db.execute(query).fetchall()
    survivors = [row for row in rows if "SURVIVED" in str(row[0]).upper()]
    for _, module, line, operator, diff in survivors:
        print(f"\nsurvived: {module}:{line} {operator}")
        changes = [text for text in (diff or "").splitlines() if text[:1] in "+-" and text[:3] not in ("+++", "---")]
        print("\n".join(changes))
    print(f"\n{len(rows) - len(survivors)} of {len(rows)} killed, {len(survivors)} survived")


if __name__ == "__main__":
    main()
