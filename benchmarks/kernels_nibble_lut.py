"""Look-up convolutions with 16 entries against our own AVX2 w8a8 kernels, interleaved in one process: the ratio table.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_nibble_lut.py [--all]

Compiled for Haswell (AVX2, no VNNI), whatever CPU runs it. Table building and requantization are included. `--all`
measures every candidate of the best two families of a precision; without it the default kernel runs. A ratio is the
least time of w8a8 divided by that of the precision; turns alternate.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm
from kernels_conv import layer, seconds
from kernels_lut import arguments

from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.schema import W8A8, Conv2dWorkload, Precision
from tvm_mpq.targets import features, resolve

TARGET = "haswell"
ROUNDS = 25
PRECISIONS = [Precision.parse(p) for p in ("w7a8", "w4a8", "w2a5", "w2a4", "w2a2", "w1a5", "w1a4", "w1a2")]
LAYERS = [
    *(layer(s, c, c) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    layer(14, 256, 1024, 1),
    layer(14, 96, 576, 1),
    layer(56, 64, 128, 3, 2),
    Conv2dWorkload(1, 1, 197, 768, 768, (1, 1)),
]


def cases(w: Conv2dWorkload, precision: Precision, every: bool) -> list[Kernel]:
    request = Request(w, precision, 8, features(resolve(TARGET)))
    found = [
        Kernel(request, f, knobs) for f in fitting(request)[: 2 if every else 1] for knobs in f.knob_space(request)
    ]
    return found if every else found[:1]


def main() -> None:
    every, rng = "--all" in sys.argv, np.random.default_rng(0)
    target = tvm.target.Target({"kind": "llvm", "mcpu": resolve(TARGET).mcpu})
    print(f"{'layer':24s} {'w8a8':>9s}  " + "".join(f"{p!s:>7s}" for p in PRECISIONS))
    for w in LAYERS:
        kernels = [k for p in (W8A8, *PRECISIONS) for k in cases(w, p, every)]
        runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=target)["main"] for k in kernels]
        args = [arguments(k, rng) for k in kernels]
        times = [max(1, int(0.002 / seconds(r, a, 3))) for r, a in zip(runs, args, strict=True)]
        turns = [[seconds(r, a, n) for r, a, n in zip(runs, args, times, strict=True)] for _ in range(ROUNDS)]
        least = np.min(turns, axis=0)  # other processes share the core
        best = {
            p: min(t for t, k in zip(least, kernels, strict=True) if k.request.precision == p)
            for p in (W8A8, *PRECISIONS)
        }
        taps = f"{w.kernel[0]}x{w.kernel[1]}/{w.stride[0]}"
        name = f"{w.in_channels}->{w.out_channels} {taps} {w.in_height}x{w.in_width}"
        ratios = "".join(f"{best[W8A8] / best[p]:7.2f}" for p in PRECISIONS)
        print(f"{name:24s} {best[W8A8] * 1e6:6.1f} us  {ratios}", flush=True)


if __name__ == "__main__":
    main()
