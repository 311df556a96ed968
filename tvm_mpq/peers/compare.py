"""Ours against other engines on one network: build what is missing, load every engine, take turns, compare outputs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.peers.child import EngineError, EngineProcess
from tvm_mpq.peers.common import ENGINES, MODULES, PRECISIONS, EngineJob, NotOffered
from tvm_mpq.peers.rounds import Ratio, Round, Turn, calm_turns, ratio_to_best, rotated, spread, turn_times

BUILD_SEC, LOAD_SEC, TURN_SEC, OUTPUTS_SEC = 3600.0, 300.0, 300.0, 1800.0
SETTLE_SEC = 0.02
"""Pause before a turn: pools of the engine before it spin for a while."""

REFERENCES = ("ort-fp32", "openvino-fp32", "litert-fp32", "ours-fp32")
"""Whose outputs the others are compared with: the first that is there."""


def default_cache() -> Path:
    """Where built networks are kept when the user says nothing else."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm-mpq" / "peers"


def chosen_engines(text: str) -> tuple[str, ...]:
    """Engines by commas, or `all`.

    Raises
    ------
    InvalidValueError
        For a name that is none, with the names that are.
    """
    names = ENGINES if text == "all" else tuple(text.split(","))
    unknown = [name for name in names if name not in ENGINES and not re.fullmatch(r"ours-w[1-8]a[1-8]", name)]
    if unknown:
        raise InvalidValueError(
            f"--engines takes {', '.join(ENGINES)}, ours-w2a4 and the like, or all (got {', '.join(unknown)})"
        )
    return names


@dataclass(frozen=True)
class Settings:
    """How to compare.

    engines: as `chosen_engines` gives them. rounds: calm rounds wanted for each ratio; attempts: at most this many
    times as many are tried. turn_ms: least length of an engine's turn. max_drift: of the sentinel, relative.
    max_waited: largest share of a turn spent waiting for a core. cache: folder for built networks. python: engine
    kind -> its interpreter.
    """

    cache: Path
    engines: tuple[str, ...] = ENGINES
    rounds: int = 15
    attempts: int = 4
    turn_ms: float = 60.0
    max_drift: float = 0.10
    max_waited: float = 0.05
    python: dict[str, str] = field(default_factory=dict)
    db: str | None = None
    rebuild: bool = False
    say: Callable[[str], None] = lambda _text: None


@dataclass(frozen=True)
class Subject:
    """A network as files. check: a few inputs for comparing outputs; evaluation: all of them, with labels.

    images: what the inputs are, for the report. At least one of onnx, tflite, torch is given.
    """

    name: str
    calibration: Path
    check: Path
    images: str
    evaluation: Path | None = None
    labels: npt.NDArray[np.int64] | None = None
    onnx: Path | None = None
    tflite: Path | None = None
    tflite_int8: Path | None = None
    torch: str | None = None
    classifies: bool = True


def digest(*parts: Any) -> str:
    """12 digits; a Path stands for the file's content."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return whole.hexdigest()[:12]


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

    def __init__(self, options: Settings, network: Subject, threads: int, log: IO[bytes]) -> None:
        self._options, self._network, self._threads, self._log = options, network, threads, log
        self._cores = sorted(os.sched_getaffinity(0))[-threads:]  # the first core serves most interrupts
        self.row = Row(network.name, threads, network.images)
        self._children: dict[str, EngineProcess] = {}

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

    def _python(self, kind: str) -> str:
        return self._options.python.get(kind, sys.executable)

    def _child(self, name: str, cores: list[int]) -> EngineProcess:
        python = self._python(name.split("-")[0])
        return EngineProcess(python, cores, self._threads, self._log, self._options.cache)

    def _admit(self, name: str, stack: ExitStack) -> None:
        """Build if needed, then load; an engine that cannot is left out with the reason."""
        try:
            job = self._job(name)
            if not (job.folder / "done").exists():
                self._options.say(f"{self._network.name}: building {name}")
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
        self._options.say(f"{self._network.name}: {name} left out: {error}")

    def _job(self, name: str) -> EngineJob:
        kind, precision = name.split("-")
        n = self._network
        sources = [p for p in (n.onnx, n.tflite, n.tflite_int8) if p]
        key = digest(kind, precision, *sources, n.calibration, *_code(kind), self._python(kind), *_compiled_for(kind))
        # Only ours compiles for a number of threads.
        suffix = f"-t{self._threads}" if kind == "ours" else ""
        folder = self._options.cache / "built" / n.name / f"{name}-{key}{suffix}"
        if self._options.rebuild:
            (folder / "done").unlink(missing_ok=True)
        files = (n.calibration, n.onnx, n.tflite, n.tflite_int8)
        return EngineJob(kind, precision, folder, self._threads, *files, n.torch, self._options.db)

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
                if not np.isfinite(found[name]).all():
                    del found[name]
                    raise EngineError("its outputs hold NaN or infinity")
            except EngineError as e:
                self._drop(name, e)
        reference = next((n for n in REFERENCES if n in found), None)
        for name, y in found.items():
            entry = self.row.engines[name]
            if reference is not None:
                r = found[reference]
                entry["reference"] = reference
                entry["relative_error"] = float(np.linalg.norm(y - r) / max(float(np.linalg.norm(r)), 1e-30))
                if self._network.classifies:
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
        """Ours against the fastest peer of the same precision; at fewer bits against int8, a peer's and ours."""
        options = self._options
        calm = calm_turns(rounds, options.max_drift, options.max_waited)
        found = {}
        for name in (n for n in self._children if n.startswith("ours-")):
            precision = name.split("-")[1]
            rivals = {precision: self._peers_of(name)}
            if precision not in PRECISIONS["ours"]:
                rivals[f"{precision}, to ours"] = ["ours-int8"]
            for label, peers in rivals.items():
                enough = max(1, options.rounds // 2)
                found[label] = ratio_to_best(rounds, calm, name, peers, enough, options.max_drift)
        return found

    def _peers_of(self, name: str) -> list[str]:
        """The engines that an engine is compared with: of its precision, below 8 bit those of 8 bit."""
        precision = name.split("-")[1]
        others = precision if precision in PRECISIONS["ours"] else "int8"
        return [n for n in self._children if n.endswith(others) and not n.startswith("ours")]

    def _calm_pairs(self, rounds: list[Round]) -> int:
        """Rounds that the ratio with the fewest of them has from a calm machine."""
        ratios = [r for r in self._ratios(rounds).values() if r is not None]
        if not ratios:
            return len(rounds)
        return min(r.rounds if r.basis == "calm" else 0 for r in ratios)

    def _summarize(self, rounds: list[Round]) -> None:
        options = self._options
        calm, enough = calm_turns(rounds, options.max_drift, options.max_waited), max(1, options.rounds // 2)
        for name in self._children:
            values = [us / 1e3 for us in turn_times(rounds, calm, name, enough)]
            s = spread(values)
            self.row.engines[name] |= {"median_ms": s.median, "iqr_ms": s.iqr, "turns_ms": values}
            beside = ratio_to_best(rounds, calm, name, self._peers_of(name), enough, options.max_drift)
            self.row.engines[name]["to_best_peer"] = beside and beside.ratio.median
        self.row.ratios = {p: asdict(ratio) if ratio else None for p, ratio in self._ratios(rounds).items()}


def _code(kind: str) -> list[Path]:
    """Files whose change makes a built network stale: the engine's, and all of the project for ours."""
    here = Path(__file__).resolve().parent
    files = [here / f"{MODULES[kind]}.py"]
    if kind == "ours":
        found = {p for folder in _project() for p in folder.rglob("*.py")}
        files += sorted(p for p in found if here not in p.parents)
    return files


def _compiled_for(kind: str) -> tuple[str, ...]:
    """What the CPU at hand offers, which ours is compiled for; the others find it out when they run."""
    if kind != "ours":
        return ()
    from tvm_mpq.targets import local_row

    row = local_row()
    return row.mcpu, *row.isa_features


def _project() -> list[Path]:
    """Folders of the project's code; an editable install keeps some rooms beside the package."""
    package = Path(__file__).resolve().parents[1]
    rooms = [package.parent / name for name in ("passes", "targets", "tuning")]
    return [package, *(room for room in rooms if (room / "__init__.py").exists())]
