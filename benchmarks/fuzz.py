"""Damaged inputs by the thousand: each ends in one line, within 20 s and 2 GB, without a traceback or a crash.

    python benchmarks/fuzz.py --cases 10000                       all kinds
    python benchmarks/fuzz.py --kinds onnx,npz --cases 500 --seed 3

Kinds: `onnx` and `tflite` files through `inspect`, `.npz` data, `plan.json` with `codes.npz` (read and realized),
`report.json` (shown), database files (read, verified, written), exported `records`, and replies of an RPC server. A
case is found again by its kind, its number and the seed. Inputs go to a process of its own, which is watched, and is
started again when one kills it; such a case is named with the signal. A server's replies go to a command in a process
of its own, as the command line has it, and a crash of TVM's client that this names in one line counts as `named`. What
is a fault is printed; counts come last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from faults_job import make_network
from fuzz_guarded import MOST_BYTES
from fuzz_worker import KINDS

LONGEST_SEC = 20.0

ROOT = Path(__file__).parents[1]


class Worker:
    """The process that is given the cases."""

    def __init__(self, folder: Path, seed: int, environment: dict[str, str]) -> None:
        self._command = [sys.executable, str(ROOT / "benchmarks" / "fuzz_worker.py"), str(seed), str(folder)]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", **environment}
        self._start()

    def _start(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, env=self._environment, text=True, **pipes)  # type: ignore[call-overload]
        self._seen = psutil.Process(self._process.pid)
        self._ask("npz -1", 600.0)  # starting is no case's time

    def judge(self, kind: str, number: int) -> dict[str, str]:
        """What became of a case; of one that ends the process, how."""
        fault, line = self._ask(f"{kind} {number}", LONGEST_SEC)
        if fault.startswith("took longer"):  # perhaps the machine's fault: once more
            fault, line = self._ask(f"{kind} {number}", LONGEST_SEC)
        if line:
            answer: dict[str, str] = json.loads(line)
            return answer
        if not fault:
            fault = f"crash: {_name(self._process.wait())}"
            self._start()
        return {"outcome": "fault", "text": fault}

    def _ask(self, question: str, patience_sec: float) -> tuple[str, str]:
        """(why it was ended, its answer); one of them or both are empty."""
        assert self._process.stdin is not None and self._process.stdout is not None
        before = self._seen.memory_info().rss
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        end = time.monotonic() + patience_sec
        fault = ""
        while not select.select([self._process.stdout], [], [], 0.05)[0]:
            if time.monotonic() > end:
                fault = f"took longer than {patience_sec:g} s"
            elif self._memory() - before > MOST_BYTES:
                fault = f"took more than {MOST_BYTES / 1e9:g} GB"
            if fault:
                self._end_case()
                break
        return fault, "" if fault else self._process.stdout.readline()

    def _end_case(self) -> None:
        """End the child that has the case; if there is none, or its end changes nothing, the process, for a new one."""
        assert self._process.stdout is not None
        children = self._seen.children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        if children and select.select([self._process.stdout], [], [], 5.0)[0]:
            self._process.stdout.readline()
            return
        self._process.kill()
        self._process.wait()
        self._start()

    def _memory(self) -> int:
        """Bytes that the process has, or with what a child of it, once the same, has asked for since."""
        most = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            here = self._seen.memory_info()
            most = int(here.rss)
            for child in self._seen.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    most = max(most, int(here.rss + child.memory_info().vms - here.vms))
        return most

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def make_built(folder: Path) -> Path:
    """A network, what `optimize` makes of it, its database and its exported records."""
    make_network(folder)
    common = ["--db", str(folder / "latency.db")]
    for arguments in (
        ["optimize", "net.onnx", "--data", "calib.npz", "--precisions", "w4a8", "--out", "built", "-q", *common],
        ["db", "export", "records.jsonl", *common],
    ):
        command = [sys.executable, "-m", "tvm_mpq.cli", *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "built"


def run(
    cases: Mapping[str, int], seed: int, say: Callable[[str], None], built: Path | None = None, first: int = 0
) -> tuple[Counter[str], list[str]]:
    """Counts by kind and outcome, and the faults.

    cases: how many of each kind. built: as of `make_built`; made where it is None. first: number of the first case.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz_") as name:
        folder = Path(name)
        built = built or make_built(folder)
        environment = {"TVM_MPQ_FUZZ_BUILT": str(built)}
        board = serve(folder) if "rpc" in cases else None
        if board is not None:
            assert board.stdout is not None
            environment["TVM_MPQ_FUZZ_BOARD"] = board.stdout.readline().strip()
        worker = Worker(folder, seed, environment)
        try:
            for kind, count in cases.items():
                start = time.monotonic()
                for number in range(first, first + count):
                    answer = worker.judge(kind, number)
                    counts[f"{kind} {answer['outcome']}"] += 1
                    if answer["outcome"] == "fault":
                        faults.append(f"{kind} {number} (seed {seed}): {answer['text']}")
                        say(faults[-1])
                say(f"{kind}: {count} cases in {time.monotonic() - start:.0f} s")
        except KeyboardInterrupt:  # what was counted by then is told
            say(f"{kind}: interrupted at case {number}, after {time.monotonic() - start:.0f} s")
        finally:
            worker.close()
            if board is not None:
                board.kill()
                board.wait()
    return counts, faults


def serve(folder: Path) -> subprocess.Popen[str]:
    """A board whose replies are damaged as the folder's `replies.json` says; its first line is its port."""
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz_board.py"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--built", type=Path, help="folder of an earlier run's network, instead of making one")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    counts, faults = run(
        dict.fromkeys(asked.kinds.split(","), asked.cases),
        asked.seed,
        lambda text: print(text, flush=True),
        asked.built,
        asked.first,
    )
    for name, count in sorted(counts.items()):
        print(f"{count:7d}  {name}")
    print(f"{len(faults)} faults of {sum(counts.values())} cases")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
