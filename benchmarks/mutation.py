"""Mutation testing: does a wrong operator, constant or condition in a room make any of its own tests fail?

    python -m venv /somewhere/cosmic && /somewhere/cosmic/bin/pip install cosmic-ray
    python benchmarks/mutation.py --cosmic-python /somewhere/cosmic/bin/python --answers answers.jsonl

cosmic-ray, in an environment of its own, names the mutants (`mutation_mutants.py`); the room's tests that run the
changed line are tried on each, in a copy of the tree, until one fails or hangs (`mutation_trials.py`). `--mutants`
draws so many of a room; the score then comes with its 95 % interval (Wilson). The quickest tests are taken, up to
`--test-sec` of their time without a change: what a slower one would see counts as survived. Survivors are printed with
their lines, and a person decides whether a test is missing, the code does too much, or the change means nothing; the
last are listed with the reason in `mutation_equivalents.json`, and counted apart. One of these that a test does see is
reported as wrong.

Answers are kept as lines of JSON. Called again with the same file, a killed mutant stays killed and a survivor is tried
again where the room or its tests changed since; leave the file out to begin anew. Ends with 1 where a room stays below
`--least`. One process; a second may run another room.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation_trials import Trials, copy_tree

ROOT = Path(__file__).parents[1]
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.json")
MUTANTS = Path(__file__).with_name("mutation_mutants.py")
ROOMS = {
    "numerics": ("tvm_mpq/numerics", "tests/unit/numerics"),
    "select": ("tvm_mpq/select", "tests/unit/select"),
    "records": ("tvm_mpq/tuning/database", "tests/unit/tuning/database"),
}
"""Room -> its code and its tests, as they stand in the copy."""


@dataclass(frozen=True)
class Answer:
    """What became of one mutant."""

    key: str
    """Of the mutant: its file, operator and line, and which of equal lines."""
    change: str
    """Hash of the whole changed file."""
    tree: str
    """Hash of the room and its tests, when they answered."""
    file: str
    line: int
    before: str
    after: str
    killed: bool
    by: str
    """The test that failed; empty for survivors, `no test` where none runs the line."""
    sec: float


@dataclass(frozen=True)
class Equivalent:
    """A change of one line that no test can see, and why."""

    file: str
    before: str
    after: tuple[str, ...]
    why: str


def read_equivalents() -> list[Equivalent]:
    found = json.loads(EQUIVALENTS.read_text())
    return [Equivalent(e["file"], e["before"], tuple(e["after"]), e["why"]) for e in found]


def wilson(good: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which a sample is known."""
    z = 1.96
    middle, half = good + z * z / 2, z * math.sqrt(good * (count - good) / count + z * z / 4)
    return (middle - half) / (count + z * z), (middle + half) / (count + z * z)


def changed_line(before: str, after: str) -> tuple[str, str]:
    """The first line in which two texts differ, without its indent."""
    old, new = before.splitlines(), after.splitlines()
    at = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new)))
    if len(new) < len(old):  # a decorator is gone
        return old[at].strip(), ""
    return old[at].strip(), new[at].strip()


def digest(folder: Path, code: str, tests: str) -> str:
    found = hashlib.sha256()
    for path in sorted(p for part in (code, tests) for p in (folder / part).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def check(trials: Trials, files: list[str]) -> None:
    """That a change of any file is seen at all, and that no change is."""
    quick = sorted(trials.baseline.seconds, key=lambda test: trials.baseline.seconds[test])[:20]
    source = Path(files[0]).read_text()
    if (same := trials.run(files[0], source, quick)).killed:
        raise SystemExit(f"killed without a change, by {same.by}:\n{Path('output').read_text()[-3000:]}")
    for file in files:
        broken = Path(file).read_text().replace("from __future__", "raise RuntimeError\nfrom __future__", 1)
        broken = broken if "raise RuntimeError\n" in broken else f"raise RuntimeError\n{broken}"
        if not trials.run(file, broken, trials.chosen(file, 1, 10.0)).killed:
            print(f"no test of the room imports {file}", flush=True)


def room(name: str, asked: argparse.Namespace, known: dict[str, Answer]) -> list[Answer]:
    """Answers for the mutants of one room, also those from before; new ones are added to the file."""
    code, tests = ROOMS[name]
    with tempfile.TemporaryDirectory(prefix="mutation_") as text:
        folder = Path(text).resolve()
        copy_tree(ROOT, folder, code, tests)
        wanted = [part for part in asked.only.split(",") if part]
        files = sorted(str(path.relative_to(folder)) for path in (folder / code).rglob("*.py"))
        files = [f for f in files if not f.endswith("__init__.py") and (not wanted or Path(f).stem in wanted)]
        command = [asked.cosmic_python, MUTANTS, str(asked.mutants or 0), str(asked.seed), *files]
        lines = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        total, mutants = int(lines[0]), [json.loads(line) for line in lines[1:]]
        tree = digest(folder, code, tests)
        answers, trials = [], None
        for i, mutant in enumerate(mutants):
            source = mutant["source"]
            change = hashlib.sha256(source.encode()).hexdigest()
            before = known.get(mutant["key"])
            if before and (before.tree == tree or before.killed) and before.change == change:
                answers.append(before)
                continue
            if trials is None:
                start = time.monotonic()
                trials = Trials(folder, code, tests, asked.answers and asked.answers.with_suffix(f".{name}.json"))
                check(trials, files)
                count = len(trials.baseline.seconds)
                print(f"{name}: {len(mutants)} of {total} mutants, {count} tests", flush=True)
                print(f"ready after {time.monotonic() - start:.0f} s", flush=True)
            chosen = trials.chosen(mutant["file"], mutant["line"], asked.test_sec)
            start = time.monotonic()
            found = trials.run(mutant["file"], source, chosen) if chosen else None
            old, new = changed_line((folder / mutant["file"]).read_text(), source)
            by, sec = found.by if found else "no test", round(time.monotonic() - start, 2)
            killed = found is not None and found.killed
            answer = Answer(mutant["key"], change, tree, mutant["file"], mutant["line"], old, new, killed, by, sec)
            answers.append(answer)
            if asked.answers:
                with asked.answers.open("a") as stream:
                    print(json.dumps(asdict(answer)), file=stream)
            print(
                f"{i + 1}/{len(mutants)} {'killed' if killed else 'SURVIVED'} {answer.file}:{answer.line}", flush=True
            )
    report(name, answers, total)
    return answers


def share(answers: list[Answer], equivalents: Mapping[tuple[str, str, str], str]) -> float:
    counted = [a for a in answers if a.killed or (a.file, a.before, a.after) not in equivalents]
    return sum(a.killed for a in counted) / max(1, len(counted))


def equivalent_changes() -> dict[tuple[str, str, str], str]:
    return {(e.file, e.before, after): e.why for e in read_equivalents() for after in e.after}


def report(name: str, answers: list[Answer], total: int) -> None:
    equivalents = equivalent_changes()
    survivors = [a for a in answers if not a.killed and (a.file, a.before, a.after) not in equivalents]
    for a in sorted(survivors, key=lambda a: (a.file, a.line)):
        print(f"\nsurvived: {a.file}:{a.line} {'(no test runs it)' if a.by else ''}\n- {a.before}\n+ {a.after}")
    for a in answers:
        if a.killed and (a.file, a.before, a.after) in equivalents:
            print(f"\nnot equivalent: {a.file}:{a.line} is seen by {a.by}\n- {a.before}\n+ {a.after}")
    killed = sum(a.killed for a in answers)
    same = len(answers) - killed - len(survivors)
    timed = sum(a.by.endswith("(time)") for a in answers)
    counted = killed + len(survivors)
    text = f"{name}: {killed} of {counted} killed ({100 * killed / max(1, counted):.1f} %"
    if len(answers) < total:
        low, high = wilson(killed, counted)
        text += f", 95 % interval {100 * low:.1f} to {100 * high:.1f} %, {len(answers)} drawn of {total}"
    print(f"\n{text}), {timed} of them by time; {len(survivors)} survived, {same} mean nothing")
    worst = Counter(a.file for a in survivors).most_common()
    print("\n".join(f"  {count:3} {file}" for file, count in worst))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cosmic-python", type=Path, required=True, help="the Python that has cosmic-ray")
    parser.add_argument("--rooms", default=",".join(ROOMS), help=f"by commas, of {', '.join(ROOMS)}")
    parser.add_argument("--only", default="", help="files of the rooms by name, by commas, without .py")
    parser.add_argument("--mutants", type=int, help="drawn of each room; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-sec", type=float, default=20.0, help="of tests tried on one mutant (default 20)")
    parser.add_argument("--answers", type=Path, help="file of answers, read and added to")
    parser.add_argument("--least", type=float, default=90.0, help="per cent of each room to be killed (default 90)")
    asked = parser.parse_args()
    asked.answers = asked.answers and asked.answers.resolve()
    asked.cosmic_python = asked.cosmic_python.absolute()
    known: dict[str, Answer] = {}
    if asked.answers and asked.answers.exists():
        for line in asked.answers.read_text().splitlines():
            answer = Answer(**json.loads(line))
            known[answer.key] = answer
    equivalents = equivalent_changes()
    shares = [share(room(name, asked, known), equivalents) for name in asked.rooms.split(",")]
    sys.exit(min(shares) < asked.least / 100)


if __name__ == "__main__":
    main()
