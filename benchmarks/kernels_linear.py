"""Linear layers of few rows with packed weights against our own w8a8, interleaved in one process: the ratio table.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_linear.py [IN>OUT ...] [--rows N]
        [--target haswell] [--all]

Both sides are tuned: of a precision's default family all candidates are measured, and the one of the least time is
taken. A ratio is the time of w8a8 divided by that of the precision, first of the least times, then of the medians of
turns that alternate. What bounds a kernel shows in the columns behind: the rate at which packed weights stream through,
and the share of its own ceiling (`ceilings.py`), of the fastest turns and in brackets the quartiles turn by turn.
`--target haswell` compiles for AVX2 without VNNI, whatever CPU runs it; `--all` prints every candidate.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import tvm
from ceilings import Ceilings, Share, add_target
from kernels_conv import seconds

from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.schema import W8A8, Conv2dWorkload, Precision
from tvm_mpq.targets import features, resolve, to_tvm

TUNING_ROUNDS, ROUNDS, TURN_SECONDS = 5, 25, 0.002
PRECISIONS = [W8A8, *map(Precision.parse, ("w4a8", "w2a8", "w2a4", "w1a8", "w1a4"))]
SHAPES = ("1280>1000", "1280>1024", "4096>4096", "4096>11008")


@dataclass(frozen=True)
class Timed:
    """One kernel's turns."""

    kernel: Kernel
    weight_bytes: int
    share: Share

    @property
    def least(self) -> float:
        return self.share.least

    @property
    def median(self) -> float:
        return float(np.median(self.share.seconds))


def arguments(kernel: Kernel, rng: np.random.Generator) -> list[tvm.runtime.Tensor]:
    """Bytes of any value, floats of 0: the instructions are the same for all, and quantizing weights takes long."""
    made = []
    for shape, dtype in kernel.buffers:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = rng.integers(0, 256, size, np.uint8) if "int" in dtype else np.zeros(size, np.uint8)
        made.append(tvm.runtime.tensor(data.view(dtype).reshape(shape)))
    return made


def turns(kernels: list[Kernel], target: str, rounds: int, tops: Ceilings) -> list[Timed]:
    """`rounds` turns of each kernel, one after the other; before each the caches see its weights once."""
    row, rng = resolve(target), np.random.default_rng(0)
    runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=to_tvm(row))["main"] for k in kernels]
    args = [arguments(k, rng) for k in kernels]
    times = [max(1, int(TURN_SECONDS / seconds(r, a, 3))) for r, a in zip(runs, args, strict=True)]
    sizes = [int(np.prod(a[1].shape)) for a in args]
    found = [Timed(k, size, Share(_macs(k), tops.of(k))) for k, size in zip(kernels, sizes, strict=True)]
    for _ in range(rounds):
        for timed, run, a, n in zip(found, runs, args, times, strict=True):
            run(*a)
            timed.share.turn(seconds(run, a, n))
    return found


def _macs(kernel: Kernel) -> int:
    w = kernel.request.workload
    assert isinstance(w, Conv2dWorkload)
    return w.macs


def candidates(w: Conv2dWorkload, precision: Precision, target: str) -> list[Kernel]:
    request = Request(w, precision, 8, features(resolve(target)))
    family = fitting(request)[0]
    return [Kernel(request, family, knobs) for knobs in family.knob_space(request)]


def line(name: str, t: Timed, base: Timed) -> str:
    ratios = f"{base.least / t.least:6.2f} {base.median / t.median:6.2f}"
    stream = f"{t.weight_bytes / t.least / 1e9:6.1f}"
    knobs = f"{t.kernel.family.name} {t.kernel.knobs_text}"
    return f"{name:12s} {t.kernel.request.precision!s:6s} {t.least * 1e6:8.1f} {ratios} {stream}  {t.share}  {knobs}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="IN>OUT")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--all", action="store_true")
    add_target(parser)
    options = parser.parse_args()
    target, tops = options.target, Ceilings(options.target)
    print(f"{'layer':12s} {'':6s} {'us':>8s} {'ratio':>6s} {'median':>6s} {'GB/s':>6s}  of its ceiling")
    for shape in options.shapes:
        ins, outs = map(int, shape.split(">"))
        w = Conv2dWorkload(1, 1, options.rows, ins, outs, (1, 1))
        tried = [turns(candidates(w, p, target), target, TUNING_ROUNDS, tops) for p in PRECISIONS]
        best = [min(some, key=lambda t: t.least).kernel for some in tried]
        final = turns(best, target, ROUNDS, tops)
        for t in [t for some in tried for t in some] if options.all else []:
            print(line(f"  {shape}", t, final[0]), flush=True)
        for t in final:
            print(line(shape, t, final[0]), flush=True)


if __name__ == "__main__":
    main()
