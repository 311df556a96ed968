"""Recurrent layers at w8a8 against float32, kernels alone, one thread, in turns: the fastest turn of each candidate.

    python benchmarks/kernels_recurrent.py [LAYER ...] [--rounds 60]

Prints for each candidate its time and how many times faster it is than the best float32 kernel of that layer.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tvm

from tvm_mpq.kernels import Request, candidates
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, W8A8, RecurrentWorkload, TensorQuant
from tvm_mpq.targets import features, local_row, to_tvm

ACTIVATIONS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}


def layer(cell: str, hidden: int, steps: int, batch: int = 1) -> RecurrentWorkload:
    """In one direction, from zero; a GRU resets behind the product, as torch's does."""
    return RecurrentWorkload(cell, steps, batch, hidden, ("forward",), ACTIVATIONS[cell], reset_after=cell == "gru")


LAYERS = {
    "gru 32": layer("gru", 32, 50),
    "gru 64": layer("gru", 64, 50),
    "gru 128": layer("gru", 128, 50),
    "rnn 128": layer("rnn", 128, 50),
    "lstm 128": layer("lstm", 128, 50),
    "lstm 128, batch 8": layer("lstm", 128, 20, 8),
    "lstm 512": layer("lstm", 512, 10),
}


def operands(w: RecurrentWorkload, rng: np.random.Generator) -> Operands:
    """Random weights; h in -1..1."""
    weight = rng.normal(0, w.hidden**-0.5, w.weight_shape).astype(np.float32)
    vectors = rng.normal(0, 1, w.vectors_size).astype(np.float32)
    return Operands((None,), None, weight, vectors, state=TensorQuant(8, 2 / 255, 128))


def compare(name: str, w: RecurrentWorkload, rounds: int) -> None:
    """Print one line for each candidate."""
    rng, offered = np.random.default_rng(0), features(local_row())
    given, gates = operands(w, rng), rng.normal(0, 1, w.gates_shape).astype(np.float32)
    kernels = [k for p in (FP32, W8A8) for k in candidates(Request(w, p, 32, offered)) if k.family.offered]
    functions = {f"f{i}": k.build().with_attr("global_symbol", f"f{i}") for i, k in enumerate(kernels)}
    library = tvm.compile(tvm.IRModule(functions), target=to_tvm(local_row()))
    calls: list[tuple[Any, list[Any]]] = []
    for symbol, kernel in zip(functions, kernels, strict=True):
        arrays = [gates, *kernel.constants(given), np.zeros(w.out_shape, np.float32)]
        calls.append((library[symbol], [tvm.runtime.tensor(a) for a in arrays]))
    best = [float("inf")] * len(kernels)
    for _ in range(rounds):
        for i, (function, arguments) in enumerate(calls):
            start = time.perf_counter()
            function(*arguments)
            best[i] = min(best[i], time.perf_counter() - start)
    floats = min(t for t, k in zip(best, kernels, strict=True) if k.request.precision == FP32)
    for taken, kernel in zip(best, kernels, strict=True):
        speed = f"{taken * 1e6:9.1f} us {floats / taken:6.2f}x {w.macs / taken / 1e9:6.1f} GMAC/s"
        print(f"{name:20} {kernel.request.precision!s:5} {speed}  {kernel.knobs_text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", choices=[*LAYERS, []], help=f"of {', '.join(LAYERS)}")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    for name in arguments.layers or LAYERS:
        compare(name, LAYERS[name], arguments.rounds)


if __name__ == "__main__":
    main()
