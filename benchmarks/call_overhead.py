"""What one kernel call costs in the Relax virtual machine, interpreted and compiled, and its share in a network.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/call_overhead.py [MODEL.onnx]

The kernels copy 64 bytes: a call's time is nearly all overhead. With a model, its uniform w8a8 network is built (on
synthetic data: values do not matter here) and the calls' share of its time is printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.execute.call_overhead import chains
from tvm_mpq.execute.network import EXEC_MODE, all_steps
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.pipeline import Options, build_network
from tvm_mpq.targets import local_row, to_tvm

FEW, MANY, ROUNDS = 1, 65, 400


def best_us(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The least time of a call: other work on the machine only adds to it."""
    least = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least * 1e6


def main() -> None:
    x = tvm.runtime.tensor(np.ones(16, np.float32))
    cost = {}
    for mode in ("bytecode", "compiled"):
        vm = relax.VirtualMachine(relax.build(chains(), to_tvm(local_row()), exec_mode=mode), tvm.cpu())
        few, many = (best_us(lambda f=vm[f"calls_{count}"]: f(x)) for count in (FEW, MANY))
        cost[mode] = (many - few) / (MANY - FEW)
        print(f"{mode}: {cost[mode]:.3f} us a call")
    if len(sys.argv) < 2:
        return
    prepared = prepare(Path(sys.argv[1]))
    built = build_network(Options(Path(sys.argv[1])), uniform="w8a8")
    calls = len(all_steps(prepared, built.plan))
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(built.folder / "model.so")), tvm.cpu())
    shape, _ = next(iter(prepared.inputs.values()))
    value = tvm.runtime.tensor(np.zeros(shape, np.float32))
    whole = best_us(lambda: vm["main"](value))
    share = calls * cost[EXEC_MODE] / whole
    print(f"{prepared.loaded.name}: {calls} calls in {whole:.1f} us ({EXEC_MODE}), {share:.1%} of it overhead")


if __name__ == "__main__":
    main()
