"""Ours against the engines one can install: same network, weights and calibration images, timed in turns.

    python benchmarks/peers.py --networks mobilenetv2,resnet20 --threads 1,2 --rounds 15 --shared FOLDER --json out.json

See benchmarks/README.md. The table goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import tables
from engines.child import Child, EngineError
from engines.common import MODULES, PRECISIONS, Job, NotOffered
from networks import NETWORKS, Material, MissingSourceError, digest, material
from rounds import Ratio, Round, Turn, calm_turns, ratio_to_best, rotated, spread, turn_times

ENGINES = tuple(f"{kind}-{p}" for kind, precisions in PRECISIONS.items() for p in precisions)
BUILD_SEC, LOAD_SEC, TURN_SEC, OUTPUTS_SEC = 3600.0, 300.0, 300.0, 1800.0
SETTLE_SEC = 0.02
"""Pause before a turn: pools of the engine before it spin for a while."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", default="resnet20", help=f"comma separated, of {', '.join(NETWORKS)}; or all")
    add("--engines", default="all", help=f"comma separated, of {', '.join(ENGINES)}; or all")
    add("--threads", default="1", help="comma separated thread counts (default 1)")
    add("--rounds", type=int, default=15, help="calm rounds wanted for each ratio (default 15)")
    add("--attempts", type=int, default=4, help="at most this many times as many rounds are tried (default 4)")
    add("--turn-ms", type=float, default=60.0, help="least length of an engine's turn (default 60)")
    add("--max-drift", type=float, default=0.10, help="of the sentinel, relative (default 0.10)")
    add("--max-waited", type=float, default=0.05, help="share of a turn spent waiting for a core (default 0.05)")
    add("--calibration", type=int, default=64, help="calibration images, the same for all (default 64)")
    add("--check", type=int, default=32, help="images on which outputs are compared (default 32)")
    add("--accuracy", action="store_true", help="top-1 on the whole evaluation set, where there are labels")
    add("--shared", type=Path, help="folder with models/, dataset.py and torch_models.py")
    add("--cache", type=Path, default=Path.home() / ".cache" / "tvm-mpq" / "peers", help="built networks are kept here")
    add("--db", help="latency database for building ours (default: the user's)")
    add("--python", action="append", default=[], metavar="ENGINE=PATH", help="its Python, as litert=/venv/bin/python")
    add("--rebuild", action="store_true", help="build again what the cache holds")
    add("--json", type=Path, help="write the results here, after every network")
    options = parser.parse_args()
    options.networks = _chosen(parser, options.networks, tuple(NETWORKS))
    options.engines = _chosen(parser, options.engines, ENGINES)
    options.threads = [int(t) for t in options.threads.split(",")]
    options.python = dict.fromkeys(MODULES, sys.executable) | dict(p.split("=", 1) for p in options.python)
    allowed = sorted(os.sched_getaffinity(0))
    if max(options.threads) > len(allowed):
        parser.error(f"--threads may be at most {len(allowed)} here")
    options.cache, options.shared = options.cache.resolve(), options.shared.resolve() if options.shared else None
    return options


def _chosen(parser: argparse.ArgumentParser, text: str, known: tuple[str, ...]) -> list[str]:
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    return names


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Row:
    """One network at one thread count."""

    network: str
    threads: int
    images: str
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)  # of all rounds taken, calm or not
    ratios: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Comparison:
    """One network at one thread count: builds what is missing, loads every engine, takes rounds."""

    def __init__(self, options: argparse.Namespace, network: Material, threads: int, log: IO[bytes]) -> None:
        self._options, self._network, self._threads, self._log = options, network, threads, log
        self._cores = sorted(os.sched_getaffinity(0))[-threads:]  # the first core serves most interrupts
        self.row = Row(network.name, threads, network.images)
        self._children: dict[str, Child] = {}

    def run(self) -> Row:
        start = time.monotonic()
        with ExitStack() as stack:
            for name in self._options.engines:
                self._admit(name, stack)
            self._compare_outputs()
            rounds = self._rounds()
        self._summarize(rounds)
        self.row.seconds = round(time.monotonic() - start, 1)
        return self.row

    def _child(self, name: str, cores: list[int]) -> Child:
        python = self._options.python[name.split("-")[0]]
        return Child(python, cores, self._threads, self._log, self._options.cache)

    def _admit(self, name: str, stack: ExitStack) -> None:
        """Build if needed, then load; an engine that cannot is left out with the reason."""
        try:
            job = self._job(name)
            if not (job.folder / "done").exists():
                say(f"{self._network.name}: building {name}")
                job.folder.mkdir(parents=True, exist_ok=True)
                with self._child(name, sorted(os.sched_getaffinity(0))) as builder:
                    done = builder.ask(BUILD_SEC, do="build", job=asdict(job))
                (job.folder / "done").write_text(json.dumps(done))
            child = stack.enter_context(self._child(name, self._cores))
            first = self._options.cache / "first.npy"
            np.save(first, np.load(self._network.check)[:1])
            self.row.engines[name] = child.ask(LOAD_SEC, do="load", job=asdict(job), input=first)
            self.row.engines[name]["build_seconds"] = json.loads((job.folder / "done").read_text())["seconds"]
            self._children[name] = child
        except (NotOffered, EngineError) as e:
            self._drop(name, e)

    def _drop(self, name: str, error: Exception) -> None:
        self._children.pop(name, None)
        self.row.engines.pop(name, None)
        self.row.skipped[name] = str(error)
        say(f"{self._network.name}: {name} left out: {error}")

    def _job(self, name: str) -> Job:
        kind, precision = name.split("-")
        n = self._network
        sources = [p for p in (n.onnx, n.tflite, n.tflite_int8) if p]
        key = digest(kind, precision, *sources, n.calibration, *_code(kind), self._options.python[kind])
        # Only ours compiles for a number of threads.
        suffix = f"-t{self._threads}" if kind == "ours" else ""
        folder = self._options.cache / "built" / n.name / f"{name}-{key}{suffix}"
        if self._options.rebuild:
            (folder / "done").unlink(missing_ok=True)
        files = (n.calibration, n.onnx, n.tflite, n.tflite_int8)
        return Job(kind, precision, folder, self._threads, *files, n.torch, self._options.db)

    def _outputs(self, name: str, inputs: Path) -> Any:
        target = self._options.cache / f"outputs-{name}.npy"
        self._children[name].ask(OUTPUTS_SEC, do="outputs", inputs=inputs, to=target)
        return np.load(target)

    def _compare_outputs(self) -> None:
        """Arg max against the first fp32 engine (agreement), relative error, and top-1 where there are labels."""
        found = {}
        inputs = self._network.evaluation or self._network.check
        for name in list(self._children):
            try:
                found[name] = self._outputs(name, inputs).reshape(len(np.load(inputs, mmap_mode="r")), -1)
            except EngineError as e:
                self._drop(name, e)
        reference = next((n for n in ("ort-fp32", "openvino-fp32", "litert-fp32", "ours-fp32") if n in found), None)
        for name, y in found.items():
            entry = self.row.engines[name]
            if reference is not None:
                r = found[reference]
                entry["reference"] = reference
                entry["relative_error"] = float(np.linalg.norm(y - r) / max(float(np.linalg.norm(r)), 1e-30))
                if self._network.source.classifies:
                    entry["agreement"] = [int((y.argmax(1) == r.argmax(1)).sum()), len(y)]
            if self._network.evaluation is not None and self._network.labels is not None:
                entry["top1"] = [int((y.argmax(1) == self._network.labels).sum()), len(y)]

    def _rounds(self) -> list[Round]:
        """Take rounds until there are enough calm ones for every ratio, or patience ends."""
        options = self._options
        taken: list[Round] = []
        names = list(self._children)
        while names and self._calm_pairs(taken) < options.rounds and len(taken) < options.rounds * options.attempts:
            one: dict[str, Turn] = {}
            for name in rotated(names, len(taken)):
                time.sleep(SETTLE_SEC)
                try:
                    one[name] = Turn(**self._children[name].ask(TURN_SEC, do="turn", seconds=options.turn_ms / 1e3))
                except EngineError as e:  # the rounds so far are compared without it
                    self._drop(name, e)
                    names.remove(name)
            taken.append(one)
            taken = [{n: t for n, t in r.items() if n in names} for r in taken]
        self.row.turns = [{n: asdict(t) for n, t in r.items()} for r in taken]
        self.row.rounds = {"taken": len(taken), "calm": self._calm_pairs(taken), "wanted": options.rounds}
        return taken

    def _ratios(self, rounds: list[Round]) -> dict[str, Ratio | None]:
        options = self._options
        calm = calm_turns(rounds, options.max_drift, options.max_waited)
        found = {}
        for precision in ("int8", "fp32"):
            peers = [n for n in self._children if n.endswith(precision) and not n.startswith("ours")]
            found[precision] = ratio_to_best(
                rounds, calm, f"ours-{precision}", peers, max(1, options.rounds // 2), options.max_drift
            )
        return found

    def _calm_pairs(self, rounds: list[Round]) -> int:
        """Rounds that the ratio with the fewest of them has from a calm machine."""
        ratios = [r for r in self._ratios(rounds).values() if r is not None]
        if not ratios:
            return len(rounds)
        return min(r.rounds if r.basis == "calm" else 0 for r in ratios)

    def _summarize(self, rounds: list[Round]) -> None:
        options = self._options
        calm = calm_turns(rounds, options.max_drift, options.max_waited)
        for name in self._children:
            values = [us / 1e3 for us in turn_times(rounds, calm, name, max(1, options.rounds // 2))]
            s = spread(values)
            self.row.engines[name] |= {"median_ms": s.median, "iqr_ms": s.iqr, "turns_ms": values}
        self.row.ratios = {p: asdict(ratio) if ratio else None for p, ratio in self._ratios(rounds).items()}


def _code(kind: str) -> list[Path]:
    """Files whose change makes a built network stale: the engine's, and all of the project for ours."""
    here = Path(__file__).resolve().parent
    files = [here / "engines" / f"{MODULES[kind]}.py"]
    if kind == "ours":
        root = here.parent
        files += [p for room in ("tvm_mpq", "passes", "targets", "tuning") for p in sorted((root / room).rglob("*.py"))]
    return files


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the engines."""
    from tvm_mpq.targets import device_identity, local_row

    row = local_row()
    identity = device_identity(row, 1)
    return {
        "cpu": identity.cpu_model,
        "core_type": identity.core_type,
        "isa_features": identity.isa_features,
        "target": row.name,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def main() -> None:
    options = arguments()
    options.cache.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "rows": [],
        "missing": {},
    }
    with (options.cache / "engines.log").open("wb") as log:
        for name in options.networks:
            try:
                counts = options.calibration, options.check
                network = material(name, options.shared, options.cache, *counts, accuracy=options.accuracy)
            except (MissingSourceError, ImportError) as e:
                report["missing"][name] = str(e)
                say(f"{name}: left out: {e}")
                continue
            for threads in options.threads:
                row = Comparison(options, network, threads, log).run()
                report["rows"].append(asdict(row))
                report["machine"]["load_average_at_end"] = os.getloadavg()
                say(f"{name}, {threads} thread(s): {row.seconds} s")
                if options.json:
                    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tables.show(report)


if __name__ == "__main__":
    main()
