"""Look-up convolutions against our own w8a8 kernels, interleaved in one process: the ratio table.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_lut.py [resnet18 resnet50 mobilenetv2 more] [--all]

Table building and requantization are included, and both sides are tuned: of the first candidates of each precision (of
all with `--all`) the fastest is taken. A ratio is the time of w8a8 divided by that of the look-up kernel; both are the
least times of turns that alternate, because other work on the machine only ever makes a turn longer.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm
from kernels_conv import layer, seconds

from tvm_mpq.kernels import lut  # noqa: F401  registers the rows
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import W8A8, Conv2dWorkload, Precision, TensorQuant, padded_channels
from tvm_mpq.targets import features, local_row, to_tvm

TRIED, ROUNDS, TURN_SECONDS = 4, 25, 0.0015
PRECISIONS = [Precision(weight, bits) for weight in (2, 1) for bits in (5, 4, 2)]
LAYERS = {
    "resnet18": [
        *(layer(s, c, c) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
        *(layer(s, c, 2 * c, 3, 2) for s, c in ((56, 64), (28, 128), (14, 256))),
        *(layer(s, c, 2 * c, 1, 2) for s, c in ((56, 64), (28, 128), (14, 256))),
    ],
    "resnet50": [
        *(layer(s, c, c) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
        *(layer(s, c, c, 3, 2) for s, c in ((56, 128), (28, 256), (14, 512))),
        *(layer(s, 4 * c, c, 1) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
        *(layer(s, c, 4 * c, 1) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    ],
    "mobilenetv2": [
        *(layer(s, a, b, 1) for s, a, b in ((112, 32, 16), (112, 16, 96), (56, 96, 24), (56, 24, 144), (28, 144, 32))),
        *(layer(s, a, b, 1) for s, a, b in ((28, 32, 192), (14, 192, 64), (14, 64, 384), (14, 384, 96))),
        *(layer(s, a, b, 1) for s, a, b in ((14, 96, 576), (14, 576, 96), (7, 576, 160), (7, 160, 960))),
        *(layer(s, a, b, 1) for s, a, b in ((7, 960, 320), (7, 320, 1280))),
    ],
    "more": [layer(28, 64, 64, 5), layer(28, 128, 128, 5, 2), Conv2dWorkload(1, 1, 197, 768, 768, (1, 1))],
}


def candidates(w: Conv2dWorkload, precision: Precision, every: bool) -> list[Kernel]:
    """Kernels of the family that this precision gets by default: for fewer than 8 bits the look-up ones."""
    request = Request(w, precision, 8, features(local_row()))
    family = fitting(request)[0]
    return [Kernel(request, family, knobs) for knobs in family.knob_space(request)[: None if every else TRIED]]


def arguments(kernel: Kernel, rng: np.random.Generator) -> list[tvm.runtime.Tensor]:
    w, bits = kernel.request.workload, kernel.request.precision.activation_bits
    assert isinstance(w, Conv2dWorkload)
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels)).astype(np.float32)
    bias = np.zeros(w.out_channels, np.float32)
    operands = Operands((TensorQuant(bits, 0.05, 2 ** (bits - 1)),), TensorQuant(8, 0.05, 128), weight, bias)
    x = rng.integers(0, 2**bits, (w.batch, w.in_height, w.in_width, padded_channels(w.in_channels))).astype(np.uint8)
    out = np.zeros((w.batch, w.out_height, w.out_width, padded_channels(w.out_channels)), np.uint8)
    return [tvm.runtime.tensor(a) for a in (x, *kernel.constants(operands), out)]


def least_seconds(w: Conv2dWorkload, every: bool) -> dict[Precision, float]:
    """Precision -> time of its fastest kernel."""
    rng, target = np.random.default_rng(0), to_tvm(local_row())
    kernels = [k for p in (W8A8, *PRECISIONS) for k in candidates(w, p, every)]
    runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=target)["main"] for k in kernels]
    args = [arguments(k, rng) for k in kernels]
    times = [max(1, int(TURN_SECONDS / seconds(r, a, 3))) for r, a in zip(runs, args, strict=True)]
    turns = [[seconds(r, a, n) for r, a, n in zip(runs, args, times, strict=True)] for _ in range(ROUNDS)]
    best: dict[Precision, float] = {}
    for kernel, least in zip(kernels, np.min(turns, axis=0), strict=True):
        precision = kernel.request.precision
        best[precision] = min(best.get(precision, np.inf), float(least))
    return best


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(LAYERS)
    layers = list(dict.fromkeys(w for name in names for w in LAYERS[name]))
    print(f"{'layer':24s} {'w8a8':>9s}  " + "".join(f"{p!s:>7s}" for p in PRECISIONS))
    for w in layers:
        best = least_seconds(w, "--all" in sys.argv)
        taps = f"{w.kernel[0]}x{w.kernel[1]}/{w.stride[0]}"
        name = f"{w.in_channels}->{w.out_channels} {taps} {w.in_height}x{w.in_width}"
        ratios = "".join(f"{best[W8A8] / best[p]:7.2f}" for p in PRECISIONS)
        print(f"{name:24s} {best[W8A8] * 1e6:6.1f} us  {ratios}", flush=True)


if __name__ == "__main__":
    main()
