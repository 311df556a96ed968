"""Worker: `tvm-mpq build --uniform`, and the library that it wrote run by plain TVM runtime.

`tvm-mpq run` would also tell the accuracy, but states it only together with a latency, for which the machine must be
calm; here only what the network answers counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from worker import Floats, Outcome, Task, run

CLI = (sys.executable, "-m", "tvm_mpq.cli")


def build(task: Task, folder: Path) -> str:
    """Build into `folder` as a user would. Returns what was asked, in words."""
    words = ["--uniform", f"w{task.weight_bits}a{task.activation_bits}"]
    words += ["--keep", "first,last"] if task.edges8 else []
    words += ["--rounding", task.method]
    images = folder / "calibration.npz"
    np.savez(images, **{task.input_name: task.calibration})
    call = [*CLI, "build", str(task.model), *words, "--data", str(images), "--out", str(folder), "--json"]
    code = subprocess.run(call, stdout=sys.stderr).returncode
    if code:
        sys.exit(code)  # without a traceback: the table shows the last line, which is then the reason
    return " ".join(words)


def logits(library: Path, images: Floats) -> Floats:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    found = []
    for i in range(len(images)):
        result = machine["main"](tvm.runtime.tensor(np.ascontiguousarray(images[i : i + 1])))
        found.append((result if hasattr(result, "numpy") else result[0]).numpy())
    return np.concatenate(found)


def ours(task: Task) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        words = build(task, Path(name))
        return Outcome(logits(Path(name) / "model.so", task.evaluation), words)


if __name__ == "__main__":
    run({"nearest": ours, "gptq": ours, "adaround": ours})
