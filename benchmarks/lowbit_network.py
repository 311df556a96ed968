"""A whole network at few bits against our own uniform w8a8, interleaved in one process.

    python benchmarks/lowbit_network.py [--network resnet18] [--precision w2a4] [--threads 1,2] [--db FILE]

All convolutions but the first are at the precision, where it has kernels; the last linear layer stays at w8a8. Weights
are random and seeded (`models.py`), so that only times mean anything. Kernels are the tuned ones of the latency
database where it has them. A turn's time is that of its fastest call, since other work on the machine only ever makes
a call longer; times are medians of turns that alternate, and the ratio is formed turn by turn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import models
import numpy as np
import tvm
from tvm import relax

from tvm_mpq.pipeline import Options, build_network

ROUNDS, CALLS = 40, 5


def machine(folder: Path) -> relax.VirtualMachine:
    return relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())


def turn(vm: relax.VirtualMachine, x: tvm.runtime.Tensor) -> float:
    """Milliseconds of the fastest call."""
    least = float("inf")
    for _ in range(CALLS):
        start = time.perf_counter()
        vm["main"](x)
        least = min(least, time.perf_counter() - start)
    return least * 1e3


def compare(model: Path, precision: str, threads: int, db: str | None) -> str:
    rng = np.random.default_rng(0)
    data = {"input": rng.standard_normal((16, 3, models.SIZE, models.SIZE)).astype(np.float32)}
    np.savez(model.parent / "data.npz", **data)
    options = Options(model, data=model.parent / "data.npz", threads=threads, db=db, calibration_samples=16)
    eight = build_network(options, uniform="w8a8")
    few = build_network(options, uniform=precision, keep=("first", "last"))
    x = tvm.runtime.tensor(data["input"][:1])
    machines = [machine(built.folder) for built in (eight, few)]
    for vm in machines * 3:
        turn(vm, x)
    times = np.array([[turn(vm, x) for vm in machines] for _ in range(ROUNDS)])
    ratio = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    middle, least = np.median(times, axis=0), times.min(axis=0)
    used = sorted(few.plan.operators.values())
    counts = ", ".join(f"{used.count(p)} {p}" for p in dict.fromkeys(used))
    return (
        f"{threads} threads: w8a8 {middle[0]:.3f} ms, {precision} {middle[1]:.3f} ms ({counts}); "
        f"ratio {ratio[1]:.3f} ({ratio[0]:.3f} to {ratio[2]:.3f}); "
        f"of the least times {least[1]:.3f} / {least[0]:.3f} = {least[1] / least[0]:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18", choices=sorted(models.NETWORKS))
    parser.add_argument("--precision", default="w2a4")
    parser.add_argument("--threads", default="1", help="comma separated")
    parser.add_argument("--db", help="latency database (default: the user's)")
    given = parser.parse_args()
    counts = [int(word) for word in given.threads.split(",")]
    os.environ["TVM_NUM_THREADS"] = str(max(counts))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / f"{given.network}.onnx"
        models.export(given.network, model)
        for threads in counts:
            print(f"{given.network} {compare(model, given.precision, threads, given.db)}", flush=True)


if __name__ == "__main__":
    main()
