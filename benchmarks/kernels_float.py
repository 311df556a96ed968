"""Float kernels in per cent of this core's multiply-add ceiling.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_float.py [NETWORK ...] [--target haswell] [--all]

Every layer takes turns with its ceiling (`ceilings.py`); percentages are of the fastest turns, and in brackets the
quartiles turn by turn. Where the target has bfloat16, the same layer at bf16 takes its turn too. `--all` prints every
candidate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import tvm
from ceilings import Ceilings, Share, add_target

from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import BF16, FLOAT_BITS, FP32, Conv2dWorkload
from tvm_mpq.targets import features, resolve, to_tvm

_SAME = (1, 1, 1, 1)
_ROUNDS = 60
_ROUND_MACS = 2e7
"""Work of one kernel in one round: short, so that on a shared machine some rounds are not interrupted."""


def _conv(size: int, channels: int, out: int, kernel: int = 3, stride: int = 1) -> Conv2dWorkload:
    pad = kernel // 2
    return Conv2dWorkload(1, size, size, channels, out, (kernel, kernel), (stride, stride), (pad, pad, pad, pad))


def _depthwise(size: int, channels: int, stride: int) -> Conv2dWorkload:
    return Conv2dWorkload(1, size, size, channels, channels, (3, 3), (stride, stride), _SAME, (1, 1), channels)


def _linear(rows: int, channels: int, out: int) -> Conv2dWorkload:
    return Conv2dWorkload(1, 1, rows, channels, out, (1, 1))


LAYERS = {
    "ResNet-18": [
        _conv(224, 3, 64, 7, 2), _conv(56, 64, 64), _conv(28, 128, 128), _conv(14, 256, 256), _conv(7, 512, 512),
        _conv(56, 64, 128, 3, 2), _conv(28, 128, 256, 3, 2), _conv(14, 256, 512, 3, 2), _conv(56, 64, 128, 1, 2),
        _conv(28, 128, 256, 1, 2), _conv(14, 256, 512, 1, 2), _conv(1, 512, 1000, 1),
    ],
    "ResNet-20": [_conv(32, 3, 16), _conv(32, 16, 16), _conv(32, 16, 32, 3, 2), _conv(16, 32, 32), _conv(8, 64, 64)],
    "ViT-Tiny": [_conv(224, 3, 192, 16, 16), _linear(197, 192, 576), _linear(197, 192, 192), _linear(197, 192, 768),
                 _linear(197, 768, 192)],
    "MobileNetV2": [
        _conv(224, 3, 32, 3, 2), _depthwise(112, 32, 1), _conv(112, 32, 16, 1), _conv(112, 16, 96, 1),
        _depthwise(112, 96, 2), _conv(56, 96, 24, 1), _conv(56, 24, 144, 1), _depthwise(56, 144, 1),
        _depthwise(56, 144, 2), _depthwise(28, 192, 1), _conv(28, 192, 32, 1), _depthwise(28, 192, 2),
        _depthwise(14, 384, 1), _conv(14, 96, 576, 1), _depthwise(14, 576, 1), _conv(14, 576, 96, 1),
        _depthwise(14, 576, 2), _depthwise(7, 960, 1), _conv(7, 960, 320, 1), _conv(7, 320, 1280, 1),
        _conv(1, 1280, 1000, 1),
    ],
}  # fmt: skip


def _call(kernel: Kernel, target: str) -> Callable[[], object]:
    """A call of the kernel on random data."""
    w, rng = kernel.request.workload, np.random.default_rng(0)
    assert isinstance(w, Conv2dWorkload)
    entry = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=to_tvm(resolve(target)))["main"]
    x = rng.standard_normal((w.batch, w.in_height, w.in_width, w.in_channels), dtype=np.float32)
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups), dtype=np.float32)
    constants = kernel.constants(Operands((None,), None, weight, np.zeros(w.out_channels, np.float32)))
    out = np.zeros((w.batch, w.out_height, w.out_width, w.out_channels), np.float32)
    arguments = [tvm.runtime.tensor(a) for a in (x, *constants, out)]
    return lambda: entry(*arguments)


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def main() -> None:
    """Print one line a kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(LAYERS), metavar="NETWORK", help=", ".join(LAYERS))
    parser.add_argument("--all", action="store_true", help="measure every candidate")
    add_target(parser)
    options = parser.parse_args()
    tops, offered = Ceilings(options.target), features(resolve(options.target))
    for w in [w for name in options.networks for w in LAYERS[name]]:
        kernels = []
        for precision in (FP32, BF16):
            request = Request(w, precision, FLOAT_BITS, offered)
            for family in fitting(request)[:1]:
                space = family.knob_space(request)
                kernels += [Kernel(request, family, knobs) for knobs in (space if options.all else space[:1])]
        calls = [_call(kernel, options.target) for kernel in kernels]
        shares = [Share(w.macs, tops.of(kernel)) for kernel in kernels]
        for _ in range(_ROUNDS):
            for share, call in zip(shares, calls, strict=True):
                share.turn(_seconds(call, max(1, int(_ROUND_MACS / w.macs))))
        name = f"{w.in_channels}->{w.out_channels} {w.kernel[0]}x{w.kernel[1]}/{w.stride[0]}{'d' * w.is_depthwise}"
        name += f" {w.in_height}x{w.in_width}"
        for kernel, share in zip(kernels, shares, strict=True):
            speed = f"{share.least * 1e6:8.1f} us {w.macs / share.least / 1e9:6.1f} GMAC/s {share}"
            print(f"{name:26s} {speed} {shares[0].least / share.least:5.2f}  {kernel.family.name} {kernel.knobs_text}")


if __name__ == "__main__":
    main()
