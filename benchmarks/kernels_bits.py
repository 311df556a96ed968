"""The kernel table: layers by precisions, as ratios to our own w8a8, interleaved in one process.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_bits.py [GROUP ...] [--target haswell] [--all]
        [--precisions P,P,...] [--families]

Groups of layers: resnet18, resnet50, mobilenetv2 (1x1), linear (one row), more. A ratio is the time of w8a8 divided by
that of the precision, table building and requantization included, and both sides are tuned: of every family that serves
a precision the first candidates are measured (all with `--all`), and the fastest is taken, or with `--families` the
fastest of each kind of family. The letter behind a ratio tells the kind: t look-up tables, p packed linear, s
bit-serial, none products. Times are the least of turns that alternate, because other work on the machine only ever
makes a turn longer; the last line of a group is the geometric mean. Below each layer stand per cent of the kernels' own
ceilings (`ceilings.py`). `--target haswell` compiles for AVX2 without VNNI, whatever CPU runs it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import tvm
from ceilings import Ceilings, Share, add_target
from kernels_conv import layer, seconds
from kernels_linear import arguments

from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.schema import W8A8, Conv2dWorkload, Precision
from tvm_mpq.targets import features, resolve, to_tvm

TRIED, ROUNDS, TURN_SECONDS = 3, 25, 0.0015
PRECISIONS = {
    "avx512vnni": "w4a8,w2a8,w1a8,w2a5,w2a4,w2a2,w1a5,w1a4,w1a2,w1a1",
    "avx2": "w7a8,w6a8,w5a8,w4a8,w3a8,w4a5,w2a8,w1a8,w2a5,w2a4,w2a2,w1a5,w1a4,w1a2",
}
MARKS = {"lut": "t", "linear": "p", "bit": "s"}
LAYERS = {
    "resnet18": [
        *(layer(s, c, c) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
        *(layer(s, c, 2 * c, 3, 2) for s, c in ((56, 64), (28, 128), (14, 256))),
        *(layer(s, c, 2 * c, 1, 2) for s, c in ((56, 64), (28, 128), (14, 256))),
    ],
    "resnet50": [
        *(layer(s, c, c, 3, 2) for s, c in ((56, 128), (28, 256), (14, 512))),
        *(layer(s, 4 * c, c, 1) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
        *(layer(s, c, 4 * c, 1) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
        *(layer(s, 4 * c, 8 * c, 1, 2) for s, c in ((56, 64), (28, 128), (14, 256))),
    ],
    "mobilenetv2": [
        *(layer(s, a, b, 1) for s, a, b in ((112, 32, 16), (112, 16, 96), (56, 96, 24), (56, 24, 144), (28, 144, 32))),
        *(layer(s, a, b, 1) for s, a, b in ((28, 32, 192), (14, 192, 64), (14, 64, 384), (14, 384, 96))),
        *(layer(s, a, b, 1) for s, a, b in ((14, 96, 576), (14, 576, 96), (7, 576, 160), (7, 160, 960))),
        *(layer(s, a, b, 1) for s, a, b in ((7, 960, 320), (7, 320, 1280))),
    ],
    "linear": [Conv2dWorkload(1, 1, 1, a, b, (1, 1)) for a, b in ((1280, 1000), (4096, 4096), (4096, 11008))],
    "more": [layer(28, 64, 64, 5), layer(28, 128, 128, 5, 2), Conv2dWorkload(1, 1, 197, 768, 768, (1, 1))],
}


@dataclass(frozen=True)
class Best:
    """A precision's fastest kernel of one layer."""

    kernel: Kernel
    share: Share

    @property
    def least(self) -> float:
        return self.share.least

    @property
    def mark(self) -> str:
        return next((m for word, m in MARKS.items() if word in self.kernel.family.name), " ")


def candidates(w: Conv2dWorkload, precision: Precision, target: str, every: bool) -> list[Kernel]:
    request = Request(w, precision, 8, features(resolve(target)))
    portable = "__generic"
    rows = [f for f in fitting(request) if not f.name.endswith(portable)]
    return [Kernel(request, f, knobs) for f in rows for knobs in f.knob_space(request)[: None if every else TRIED]]


def measure(w: Conv2dWorkload, precisions: list[Precision], target: str, every: bool, tops: Ceilings) -> list[Best]:
    """The fastest kernel of each precision and kind of family, the fastest first."""
    rng, compiled_for = np.random.default_rng(0), to_tvm(resolve(target))
    kernels = [k for p in precisions for k in candidates(w, p, target, every)]
    runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=compiled_for)["main"] for k in kernels]
    args = [arguments(k, rng) for k in kernels]
    times = [max(1, int(TURN_SECONDS / seconds(r, a, 3))) for r, a in zip(runs, args, strict=True)]
    found = [Best(k, Share(w.macs, tops.of(k))) for k in kernels]
    for _ in range(ROUNDS):
        for best, run, a, n in zip(found, runs, args, times, strict=True):
            run(*a)  # the caches see its weights once
            best.share.turn(seconds(run, a, n))
    found.sort(key=lambda b: b.least)
    first: dict[tuple[Precision, str], Best] = {}
    for each in found:
        first.setdefault((each.kernel.request.precision, each.mark), each)
    return list(first.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=list(LAYERS), metavar="GROUP", help=", ".join(LAYERS))
    add_target(parser)
    parser.add_argument("--precisions", help="by commas")
    parser.add_argument("--all", action="store_true", help="measure every candidate")
    parser.add_argument("--families", action="store_true", help="a ratio for each kind of family")
    options = parser.parse_args()
    machine = "avx512vnni" if "avx512vnni" in features(resolve(options.target)) else "avx2"
    texts = (options.precisions or PRECISIONS[machine]).split(",")
    precisions = list(map(Precision.parse, texts))
    tops = Ceilings(options.target)
    kinds = (" ", *MARKS.values()) if options.families else ("",)
    columns = [(p, kind) for p in precisions for kind in kinds]
    for group in options.groups:
        print(f"{group:24s} {'w8a8':>9s}  " + "".join(f"{f'{p}{kind}'.strip():>8s}" for p, kind in columns))
        ratios: dict[tuple[Precision, str], list[float]] = {}
        for w in LAYERS[group]:
            found = measure(w, [W8A8, *precisions], options.target, options.all, tops)
            base = next(b for b in found if b.kernel.request.precision == W8A8)
            cells, shares = [], []
            for p, kind in columns:
                own = [b for b in found if b.kernel.request.precision == p and kind in ("", b.mark)]
                cells.append(f"{base.least / own[0].least:7.2f}{own[0].mark}" if own else " " * 8)
                best = own[0].share.best if own else None
                shares.append(f"{best:7.0%} " if best else " " * 8)
                ratios.setdefault((p, kind), []).extend(base.least / b.least for b in own[:1])
            taps = f"{w.kernel[0]}x{w.kernel[1]}/{w.stride[0]}"
            name = f"{w.in_channels}->{w.out_channels} {taps} {w.in_height}x{w.in_width}"
            print(f"{name:24s} {base.least * 1e6:6.1f} us  {''.join(cells)}")
            print(f"{'of ceiling':24s} {base.share.best or 0:9.0%}  {''.join(shares)}", flush=True)
        means = [f"{np.exp(np.mean(np.log(r))):7.2f} " if r else " " * 8 for r in ratios.values()]
        print(f"{'mean':24s} {'':9s}  {''.join(means)}\n", flush=True)


if __name__ == "__main__":
    main()
