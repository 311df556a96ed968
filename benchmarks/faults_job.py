"""What `faults.py` does faults to: a job of the command line in a process of its own, found again by a mark."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from tvm_mpq.tuning.database.latencies import LatencyDatabase

MARK = "TVM_MPQ_FAULT_RUN"
"""Environment variable by which every process of a run is known, also one whose parent is gone."""

ORPHAN_SEC = 5.0
"""After which no process of a run that ended may be left."""

DRIVER = """
from tvm_mpq.cli import alone
alone.import_tvm_alone()
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.kernels import MeasureSettings
quick = MeasureSettings(repeats=5, min_repeat_ms=0.2, max_relative_iqr=1e6, max_drift=1e6)
presets.KERNELS = presets.NETWORKS = presets.CALLS = quick
from tvm_mpq import cli
cli.main()
"""
"""The command line, measuring quickly: what the numbers are does not matter here."""

COMMON = ("--data", "calib.npz", "--no-verify-import", "--verbose")
JOBS = {
    "optimize": ("optimize", "net.onnx", *COMMON, "--precisions", "w4a8", "--out", "out"),
    "tune": ("tune", "net.onnx", *COMMON, "--precisions", "w4a8", "--workers", "1", "--trials", "16"),
    "search": ("search", "net.onnx", *COMMON, "--precisions", "w4a8", "--points", "3"),
    "finetune": ("finetune", "net.onnx", *COMMON, "--uniform", "w8a8", "--epochs", "6", "--out", "out"),
}


def make_network(folder: Path) -> None:
    """Two convolutions and a classifier, with 32 samples: `net.onnx`, `calib.npz`."""
    rng = np.random.default_rng(11)
    weights = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "fc": (8 * 36, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "fc"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 9, n) for n, s in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    np.savez(folder / "calib.npz", x=rng.normal(size=(32, 3, 6, 6)).astype(np.float32))


@dataclass
class Ended:
    """How a run ended. orphans: command lines of processes left; litter: what is left in its temporary folder."""

    code: int | None
    output: str
    orphans: list[str]
    litter: list[str]
    logged: int  # measurements that it said to have stored

    @property
    def one_line(self) -> bool:
        """Ended with the one `error:` line; what stands above it is asked for by `--verbose`."""
        lines = self.output.splitlines()
        return self.code == 1 and bool(lines) and [lines[-1]] == [line for line in lines if line[:7] == "error: "]


@dataclass
class Run:
    """A job under way. db: its database, temporary: its TMPDIR; terminal: of its own, closed by `close_terminal`."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    temporary: Path
    terminal: int | None = None
    ended: Ended | None = field(default=None, init=False)

    @classmethod
    def start(
        cls,
        job: str,
        folder: Path,
        db: Path,
        *,
        temporary: Path | None = None,
        environment: Mapping[str, str] | None = None,
        on_terminal: bool = False,
    ) -> Run:
        mark = uuid.uuid4().hex
        temporary = temporary or Path(tempfile.mkdtemp(prefix="faults_"))
        log = folder / f"{mark}.log"
        command = [sys.executable, "-c", DRIVER, *JOBS[job], "--db", str(db)]
        env = {**os.environ, MARK: mark, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", **(environment or {})}
        master = slave = None
        if on_terminal:
            master, slave = os.openpty()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL if slave is None else slave,
                stdout=stream if slave is None else slave,
                stderr=stream if slave is None else slave,
                start_new_session=True,
                preexec_fn=None if slave is None else _take_terminal,
            )
        if slave is not None:
            os.close(slave)
        return cls(process, mark, log, temporary, master)

    def send(self, number: int, *, to_worker: bool = False) -> None:
        """To the process that was started alone, as `kill` does, or to its child that does the work."""
        pid = self.process.pid
        if to_worker:
            children = [p.pid for p in psutil.Process(pid).children()]
            pid = children[0] if children else pid
        os.kill(pid, number)

    def close_terminal(self) -> None:
        assert self.terminal is not None
        os.close(self.terminal)
        self.terminal = None

    def wait(self, timeout_sec: float) -> bool:
        """Whether it ended by then. What it writes to a terminal is read meanwhile, as a terminal would."""
        end = time.monotonic() + timeout_sec
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return True
            if self.terminal is not None:
                _drain(self.terminal)
            time.sleep(0.02)
        return False

    def finish(self, timeout_sec: float, *, tidy: bool = True) -> Ended:
        """Wait for its end, and for what it may leave behind; then end that.

        tidy: its temporary files should be gone; after kill -9 the next start removes them.
        """
        if not self.wait(timeout_sec):
            self.process.kill()
            self.process.wait()
            code = None
        else:
            code = self.process.returncode
        left = _gone(lambda: processes(self.mark))
        litter = _gone(lambda: sorted(p.name for p in self.temporary.iterdir())) if tidy else []
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        text = self.log.read_text(errors="replace")
        logged = len(re.findall(r" measured: \S", text))
        self.ended = Ended(code, text, list(left.values()), litter, logged)
        return self.ended


def processes(mark: str) -> dict[int, str]:
    """Living processes with this mark: pid -> command line, shortened."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[-120:]
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def stored(db: Path) -> tuple[list[str], set[Any]]:
    """What is wrong with a database, and its records."""
    if not db.exists():
        return [], set()
    with LatencyDatabase(db) as opened:
        return opened.verify(), set(opened.records())


def _gone(what: Callable[[], Any]) -> Any:
    """What is left after `ORPHAN_SEC`, or as soon as nothing is."""
    end = time.monotonic() + ORPHAN_SEC
    while (left := what()) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _drain(descriptor: int) -> None:
    import select

    while select.select([descriptor], [], [], 0)[0]:
        try:
            if not os.read(descriptor, 65536):
                return
        except OSError:
            return
