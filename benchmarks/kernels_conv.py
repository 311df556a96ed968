"""Rates of the integer convolution kernels beside the machine's own ceiling, interleaved.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_conv.py [w8a8|w4a8] [--all]

`--all` measures every candidate of the default family instead of its first. The ceiling is a loop of 28 independent
vpdpbusd; padded channels count as work there and not in the rates.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import tvm

from tvm_mpq.kernels import conv  # noqa: F401  registers the rows
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.kernels.tir import Code, intrin, ramp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload, Precision, TensorQuant, padded_channels
from tvm_mpq.targets import features, local_row, to_tvm

ROUNDS, TRIPS = 25, 10_000
DOT = "llvm.x86.avx512.vpdpbusd.512"


def layer(size: int, ci: int, co: int, k: int = 3, s: int = 1, groups: int = 1) -> Conv2dWorkload:
    p = k // 2
    return Conv2dWorkload(1, size, size, ci, co, (k, k), (s, s), (p, p, p, p), groups=groups)


LAYERS = [
    *(layer(s, c, c) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512), (32, 16), (16, 32), (8, 64))),
    *(layer(s, a, b, 1) for s, a, b in ((112, 16, 96), (56, 24, 144), (56, 96, 24), (56, 144, 24), (28, 32, 192))),
    *(layer(s, a, b, 1) for s, a, b in ((28, 192, 32), (14, 64, 384), (14, 384, 64), (7, 160, 960), (7, 320, 1280))),
    *(layer(224, 3, c, k, 2) for c, k in ((32, 3), (64, 7))),
    layer(56, 64, 128, 3, 2),
    Conv2dWorkload(1, 1, 197, 768, 768, (1, 1)),
    Conv2dWorkload(1, 1, 1, 1280, 1000, (1, 1)),
    *(layer(s, c, c, 3, t, c) for s, c, t in ((112, 32, 1), (112, 96, 2), (56, 144, 1), (28, 192, 1), (7, 960, 1))),
    layer(28, 120, 120, 5, 1, 120),
]


def ceiling() -> Callable[[], float]:
    """A function that measures the rate of vpdpbusd alone, in GMAC/s."""
    code = Code()
    for i in range(28):
        code.line(f'a{i} = T.alloc_buffer((16,), "int32")')
        code.line(f"a{i}[{ramp(0, 16)}] = O[{ramp(16 * i, 16)}]")
    with code.block(f"for k in range({TRIPS}):"):
        for i in range(28):
            acc = f"a{i}[{ramp(0, 16)}]"
            code.line(f"{acc} = {intrin('int32x16', DOT, acc, f'X[{ramp(0, 64)}]', f'W[{ramp(0, 64)}]')}")
    for i in range(28):
        code.line(f"O[{ramp(16 * i, 16)}] = a{i}[{ramp(0, 16)}]")
    func = code.to_prim_func([("X", (64,), "uint8"), ("W", (64,), "int8"), ("O", (448,), "int32")])
    run = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(local_row()))["main"]
    args = [tvm.runtime.tensor(np.zeros(n, t)) for n, t in ((64, "uint8"), (64, "int8"), (448, "int32"))]
    return lambda: 28 * 64 * TRIPS / seconds(run, args, 1) / 1e9


def seconds(run: Callable[..., None], args: list[tvm.runtime.Tensor], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run(*args)
    return (time.perf_counter() - start) / times


def arguments(kernel: Kernel, rng: np.random.Generator) -> list[tvm.runtime.Tensor]:
    w = kernel.request.workload
    assert isinstance(w, Conv2dWorkload)
    quant = TensorQuant(8, 0.05, 128)
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups)).astype(np.float32)
    operands = Operands((quant,), quant, weight, np.zeros(w.out_channels, np.float32))
    x = rng.integers(0, 256, (w.batch, w.in_height, w.in_width, padded_channels(w.in_channels))).astype(np.uint8)
    out = np.zeros((w.batch, w.out_height, w.out_width, padded_channels(w.out_channels)), np.uint8)
    return [tvm.runtime.tensor(a) for a in (x, *kernel.constants(operands), out)]


def main() -> None:
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    precision = Precision.parse(words[0] if words else "w8a8")
    rng, top, row = np.random.default_rng(0), ceiling(), local_row()
    for w in LAYERS:
        request = Request(w, precision, 8, features(row))
        family = fitting(request)[0]
        space = family.knob_space(request)
        cases = [Kernel(request, family, knobs) for knobs in (space if "--all" in sys.argv else space[:1])]
        runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=to_tvm(row))["main"] for k in cases]
        args = [arguments(k, rng) for k in cases]
        times = max(1, int(0.002 / seconds(runs[0], args[0], 3)))
        best, peak = [float("inf")] * len(cases), 0.0
        for _ in range(ROUNDS):  # the least time of short turns: other processes share the core
            peak = max(peak, top())
            best = [min(b, seconds(r, a, times)) for b, r, a in zip(best, runs, args, strict=True)]
        for kernel, least in zip(cases, best, strict=True):
            rate = w.macs / least / 1e9
            taps = f"{w.kernel[0]}x{w.kernel[1]}/{w.stride[0]}"
            name = f"{w.in_channels}->{w.out_channels} {taps} {w.in_height}x{w.in_width}"
            speed = f"{least * 1e6:8.1f} us {rate:6.1f} GMAC/s {rate / peak:4.0%}"
            print(f"{name:26s} {family.name:36s} {speed} {kernel.knobs_text}")


if __name__ == "__main__":
    main()
