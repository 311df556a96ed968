"""Rates of the integer convolution kernels in per cent of their own ceilings, interleaved.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_conv.py [w8a8|w4a8] [NETWORK ...] [--target haswell]
        [--all|--tune]

Without a network: a few layers of each kind. `--all` measures every candidate of the default family instead of its
first; `--tune` prints the default beside the best of all candidates, layer by layer and for each network. Ceilings are
those of `ceilings.py`; padded channels count as work there and not in the rates. Percentages: of the fastest turns,
and in brackets the quartiles turn by turn. Network totals count a layer as often as the network has it, and beside
them the time of their layers at their ceilings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from ceilings import Ceilings, Share, add_target

from tvm_mpq.kernels.families import dense  # noqa: F401  registers the rows
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload, Precision, TensorQuant, padded_channels
from tvm_mpq.targets import features, resolve, to_tvm

ROUNDS, TURN_SECONDS = 40, 0.001


def layer(
    size: int, ci: int, co: int, k: int = 3, s: int = 1, groups: int = 1, pad: int | None = None, residual: bool = False
) -> Conv2dWorkload:
    p = k // 2 if pad is None else pad
    return Conv2dWorkload(1, size, size, ci, co, (k, k), (s, s), (p, p, p, p), groups=groups, residual=residual)


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

# Layers of the networks as words: SIZE:IN>OUT[kK][sS][r][xTIMES], SIZE:dCHANNELS[kK][sS][xTIMES] for depthwise (k 3);
# k 1 where nothing is said, r = with a residual.
NETWORKS = {
    "resnet18": "224:3>64k7s2 56:64>64k3x2 56:64>64k3rx2 56:64>128k3s2 56:64>128s2 28:128>128k3 28:128>128k3rx2 "
    "28:128>256k3s2 28:128>256s2 14:256>256k3 14:256>256k3rx2 14:256>512k3s2 14:256>512s2 7:512>512k3 7:512>512k3rx2 "
    "1:512>1000",
    "resnet50": "224:3>64k7s2 56:64>64 56:64>64k3x3 56:64>256 56:64>256rx3 56:256>64x2 56:256>128 56:128>128k3s2 "
    "28:128>512rx4 56:256>512s2 28:512>128x3 28:128>128k3x3 28:512>256 28:256>256k3s2 14:256>1024rx6 28:512>1024s2 "
    "14:1024>256x5 14:256>256k3x5 14:1024>512 14:512>512k3s2 7:512>2048rx3 14:1024>2048s2 7:2048>512x2 7:512>512k3x2 "
    "1:2048>1000",
    "mobilenetv1": "224:3>32k3s2 112:d32 112:32>64 112:d64s2 56:64>128 56:d128 56:128>128 56:d128s2 28:128>256 28:d256 "
    "28:256>256 28:d256s2 14:256>512 14:d512x5 14:512>512x5 14:d512s2 7:512>1024 7:d1024 7:1024>1024 1:1024>1000",
    "mobilenetv2": "224:3>32k3s2 112:d32 112:32>16 112:16>96 112:d96s2 56:96>24 56:24>144x2 56:d144 56:144>24r "
    "56:d144s2 28:144>32 28:32>192x3 28:d192x2 28:192>32rx2 28:d192s2 14:192>64 14:64>384x4 14:d384x4 14:384>64rx3 "
    "14:384>96 14:96>576x3 14:d576x2 14:576>96rx2 14:d576s2 7:576>160 7:160>960x3 7:d960x3 7:960>160rx2 7:960>320 "
    "7:320>1280 1:1280>1000",
    "mobilenetv3": "224:3>16k3s2 112:d16 112:16>16r 112:16>64 112:d64s2 56:64>24 56:24>72x2 56:d72 56:72>24r "
    "56:d72k5s2 1:72>24 1:24>72 28:72>40 28:40>120x2 28:d120k5x2 1:120>32x2 1:32>120x2 28:120>40rx2 28:40>240 "
    "28:d240s2 14:240>80 14:80>200 14:d200 14:200>80r 14:80>184x2 14:d184x2 14:184>80rx2 14:80>480 14:d480 1:480>120 "
    "1:120>480 14:480>112 14:112>672x2 14:d672 1:672>168x2 1:168>672x2 14:672>112r 14:d672k5s2 7:672>160 7:160>960x3 "
    "7:d960k5x2 1:960>240x2 1:240>960x2 7:960>160rx2 1:960>1280 1:1280>1000",
    "lite0": "112:d32 112:32>16 56:24>144 56:d144 56:d144k5s2 28:144>40 28:40>240x2 28:d240k5 28:240>40r 28:d240s2 "
    "14:240>80 14:80>480x3 14:d480x2 14:480>80rx2 14:d480k5 14:480>112 14:112>672x3 14:d672k5x2 14:672>112rx2 "
    "14:d672k5s2 7:672>192 7:192>1152x4 7:d1152k5x3 7:1152>192rx3 7:d1152 7:1152>320 7:320>1280",
    "squeezenet": "55:64>16 55:16>64x2 55:16>64k3x2 55:128>16 27:128>32 27:32>128x2 27:32>128k3x2 27:256>32 13:256>48 "
    "13:48>192x2 13:48>192k3x2 13:384>48 13:384>64 13:64>256x2 13:64>256k3x2 13:512>64 13:512>1000",
    "resnet20": "32:3>16k3 32:16>16k3x3 32:16>16k3rx3 32:16>32k3s2 16:32>32k3x2 16:32>32k3rx3 16:32>64k3s2 8:64>64k3x2 "
    "8:64>64k3rx3 1:64>10",
    "others": "25:d64 25:64>64 1:1280>1001 1:640>128 1:128>640 197:192>576 197:192>192r 197:192>768 197:768>192r",
}


@dataclass(frozen=True)
class Counted:
    """A layer and how often its network has it."""

    workload: Conv2dWorkload
    times: int


def network(name: str) -> list[Counted]:
    out = []
    for word in NETWORKS[name].split():
        size, _, rest = word.partition(":")
        rest, _, times = rest.partition("x")
        residual = rest.endswith("r")
        numbers = {"k": 3 if rest[0] == "d" else 1, "s": 1}
        for mark in "sk":
            rest, _, value = rest.removesuffix("r").partition(mark)
            numbers[mark] = int(value or numbers[mark])
        if rest[0] == "d":
            channels, groups = (int(rest[1:]),) * 2, int(rest[1:])
        else:
            channels, groups = (int(rest.split(">")[0]), int(rest.split(">")[1])), 1
        if size == "197":  # rows of a linear layer
            w = Conv2dWorkload(1, 1, 197, *channels, (1, 1), residual=residual)
        else:
            w = layer(int(size), *channels, numbers["k"], numbers["s"], groups, residual=residual)
        out.append(Counted(w, int(times or 1)))
    return out


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
    operands = Operands((quant,) * (1 + w.residual), quant, weight, np.zeros(w.out_channels, np.float32))
    x = rng.integers(0, 256, (w.batch, w.in_height, w.in_width, padded_channels(w.in_channels))).astype(np.uint8)
    out = np.zeros((w.batch, w.out_height, w.out_width, padded_channels(w.out_channels)), np.uint8)
    return [tvm.runtime.tensor(a) for a in (x, *([out.copy()] * w.residual), *kernel.constants(operands), out)]


@dataclass(frozen=True)
class Measured:
    """Some kernels of one layer."""

    kernels: list[Kernel]
    shares: list[Share]

    @property
    def least(self) -> list[float]:
        """Seconds of each kernel's fastest turn."""
        return [share.least for share in self.shares]

    @property
    def floor(self) -> float:
        """Seconds that the first kernel takes at its ceiling; those it took where it has none."""
        return self.least[0] * (self.shares[0].best or 1.0)

    def text(self, i: int) -> str:
        w = self.kernels[i].request.workload
        assert isinstance(w, Conv2dWorkload)
        share = self.shares[i]
        taps = f"{w.kernel[0]}x{w.kernel[1]}/{w.stride[0]}{'+r' if w.residual else ''}"
        name = f"{w.in_channels}->{w.out_channels} {taps}{'d' * (w.groups > 1)} {w.in_height}x{w.in_width}"
        speed = f"{share.least * 1e6:8.1f} us {w.macs / share.least / 1e9:6.1f} GMAC/s {share}"
        return f"{name:26s} {speed} {self.kernels[i].family.name:34s} {self.kernels[i].knobs_text}"


def measure(
    w: Conv2dWorkload, precision: Precision, target: str, every: bool, tops: Ceilings, rng: np.random.Generator
) -> Measured:
    row = resolve(target)
    request = Request(w, precision, 8, features(row))
    family = fitting(request)[0]
    space = family.knob_space(request)
    cases = [Kernel(request, family, knobs) for knobs in (space if every else space[:1])]
    runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=to_tvm(row))["main"] for k in cases]
    args = [arguments(k, rng) for k in cases]
    times = max(1, int(TURN_SECONDS / seconds(runs[0], args[0], 3)))
    shares = [Share(w.macs, tops.of(k)) for k in cases]
    for _ in range(ROUNDS):  # short turns: other processes share the core
        for share, run, a in zip(shares, runs, args, strict=True):
            share.turn(seconds(run, a, times))
    return Measured(cases, shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help=f"a precision, and any of {', '.join(NETWORKS)}")
    parser.add_argument("--all", action="store_true", help="measure every candidate of the default family")
    parser.add_argument("--tune", action="store_true", help="print the default beside the best of all candidates")
    add_target(parser)
    options = parser.parse_args()
    precision = Precision.parse(next((word for word in options.words if word not in NETWORKS), "w8a8"))
    names = [word for word in options.words if word in NETWORKS]
    rng, tops = np.random.default_rng(0), Ceilings(options.target)
    for name in names or [""]:
        layers = network(name) if name else [Counted(w, 1) for w in LAYERS]
        default = best = floor = 0.0
        for each in layers:
            m = measure(each.workload, precision, options.target, options.all or options.tune, tops, rng)
            first = m.least.index(min(m.least))
            for i in [0, first] if options.tune else range(len(m.kernels)):
                note = f"  {m.least[0] / m.least[i]:.2f}" if options.tune and i else ""
                print(m.text(i) + note, flush=True)
            default, best = default + each.times * m.least[0], best + each.times * min(m.least)
            floor += each.times * m.floor
        if name:
            times = f"default {default * 1e3:.3f} ms, best {best * 1e3:.3f} ms, ceiling {floor * 1e3:.3f} ms"
            print(f"{name}: {times}, {floor / default:.0%} of it\n", flush=True)


if __name__ == "__main__":
    main()
