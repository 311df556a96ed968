"""Float kernels beside a reference near this core's ceiling: `python benchmarks/kernels_float.py [network ...]`.

Pin it (`taskset -c 0`) and set TVM_NUM_THREADS=1. Rates on a shared machine mean little by themselves: each layer
stands beside a reference measured in turns with it, a 1x1 convolution that stays in the caches and runs within a few
per cent of the ceiling. Where the machine has bfloat16, the same layer at bf16 takes its turn too.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm

from tvm_mpq.kernels import Request, default_kernel, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import BF16, FLOAT_BITS, FP32, Conv2dWorkload, Precision
from tvm_mpq.targets import features, local_row, to_tvm

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


def _compile(func: tvm.tirx.PrimFunc) -> Callable[..., None]:
    entry: Callable[..., None] = tvm.compile(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target=to_tvm(local_row())
    )["main"]
    return entry


def _kernel_call(w: Conv2dWorkload, precision: Precision) -> _Call:
    """A call of the default kernel on random data, with its family and knobs."""
    rng = np.random.default_rng(0)
    kernel = default_kernel(Request(w, precision, FLOAT_BITS, features(local_row())))
    entry = _compile(kernel.build())
    x = rng.standard_normal((w.batch, w.in_height, w.in_width, w.in_channels), dtype=np.float32)
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups), dtype=np.float32)
    constants = kernel.constants(Operands((None,), None, weight, np.zeros(w.out_channels, np.float32)))
    out = np.zeros((w.batch, w.out_height, w.out_width, w.out_channels), np.float32)
    arguments = [tvm.runtime.tensor(a) for a in (x, *constants, out)]
    return _Call(lambda: entry(*arguments), w.macs, f"{kernel.family.name} {kernel.knobs_text}")


@dataclass
class _Call:
    call: Callable[[], None]
    macs: int
    name: str
    seconds: float = math.inf

    def turn(self) -> None:
        """Time a few calls and keep the least."""
        count = max(1, int(_ROUND_MACS / self.macs))
        start = time.perf_counter()
        for _ in range(count):
            self.call()
        self.seconds = min(self.seconds, (time.perf_counter() - start) / count)

    @property
    def rate(self) -> float:
        """10^9 multiply-adds a second."""
        return self.macs / self.seconds / 1e9


def main() -> None:
    """Print one line a layer."""
    wanted = sys.argv[1:] or list(LAYERS)
    peak = _kernel_call(Conv2dWorkload(1, 1, 56, 256, 64, (1, 1)), FP32)
    for network in wanted:
        for w in LAYERS[network]:
            peak.seconds = math.inf
            precisions = [p for p in (FP32, BF16) if fitting(Request(w, p, FLOAT_BITS, features(local_row())))]
            calls = [_kernel_call(w, p) for p in precisions]
            for _ in range(_ROUNDS):
                for one in (*calls, peak):
                    one.turn()
            line = f"{network:12s} {w.in_height:4d}x{w.in_channels:<4d} -> {w.out_channels:<4d}"
            line += f" k{w.kernel[0]} s{w.stride[0]}{' dw' if w.is_depthwise else '   '}"
            line += f" {calls[0].seconds * 1e6:8.1f} us {calls[0].rate:6.1f} GMAC/s"
            line += f" {calls[0].rate / peak.rate:5.2f} of {peak.rate:.1f}"
            line += f"  bf16 {calls[0].seconds / calls[1].seconds:5.2f}x" if len(calls) > 1 else " " * 12
            sys.stdout.write(f"{line}  {' | '.join(one.name for one in calls)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
