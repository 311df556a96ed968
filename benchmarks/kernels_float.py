"""Float kernels beside a reference near this core's multiply-add ceiling: `python benchmarks/kernels_float.py [mcpu]`.

Pin it (`taskset -c 0`) and set TVM_NUM_THREADS=1. Rates on a shared machine mean little by themselves: each layer
stands beside a reference measured right after it, a 1x1 convolution that stays in the caches and runs within a few per
cent of the ceiling.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import tvm
from tvm.target import codegen

from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, Conv2dWorkload

_SAME = (1, 1, 1, 1)
_REPEATS = 9


def _conv(size: int, channels: int, out: int, kernel: int = 3, stride: int = 1) -> Conv2dWorkload:
    pad = kernel // 2
    return Conv2dWorkload(1, size, size, channels, out, (kernel, kernel), (stride, stride), (pad, pad, pad, pad))


def _depthwise(size: int, channels: int, stride: int) -> Conv2dWorkload:
    return Conv2dWorkload(1, size, size, channels, channels, (3, 3), (stride, stride), _SAME, (1, 1), channels)


LAYERS = {
    "ResNet-18": [
        _conv(224, 3, 64, 7, 2), _conv(56, 64, 64), _conv(28, 128, 128), _conv(14, 256, 256), _conv(7, 512, 512),
        _conv(56, 64, 128, 1, 2),
    ],
    "ResNet-20": [_conv(32, 3, 16), _conv(32, 16, 16), _conv(32, 16, 32, 3, 2), _conv(16, 32, 32), _conv(8, 64, 64)],
    "MobileNetV2": [
        _conv(224, 3, 32, 3, 2), _depthwise(112, 32, 1), _conv(112, 32, 16, 1), _conv(112, 16, 96, 1),
        _depthwise(112, 96, 2), _conv(56, 96, 24, 1), _conv(56, 24, 144, 1), _depthwise(56, 144, 1),
        _depthwise(28, 192, 1), _conv(28, 192, 32, 1), _depthwise(14, 384, 1), _conv(14, 96, 576, 1),
        _depthwise(14, 576, 1), _conv(14, 576, 96, 1), _depthwise(7, 960, 1), _conv(7, 960, 320, 1),
        _conv(7, 320, 1280, 1), _conv(1, 1280, 1000, 1),
    ],
}  # fmt: skip


def _compile(func: tvm.tirx.PrimFunc, mcpu: str) -> Callable[..., None]:
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    entry: Callable[..., None] = tvm.compile(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target=target
    )["main"]
    return entry


def _kernel_call(w: Conv2dWorkload, mcpu: str, features: frozenset[str]) -> tuple[Callable[[], None], str, float]:
    """A call of the default kernel on random data, its family and knobs, and the seconds it took to build."""
    rng = np.random.default_rng(0)
    kernel = default_kernel(Request(w, FP32, 32, features))
    start = time.perf_counter()
    entry = _compile(kernel.build(), mcpu)
    seconds = time.perf_counter() - start
    x = rng.standard_normal((w.batch, w.in_height, w.in_width, w.in_channels), dtype=np.float32)
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups), dtype=np.float32)
    constants = kernel.constants(Operands((None,), None, weight, np.zeros(w.out_channels, np.float32)))
    out = np.zeros((w.batch, w.out_height, w.out_width, w.out_channels), np.float32)
    arguments = [tvm.runtime.tensor(a) for a in (x, *constants, out)]
    return lambda: entry(*arguments), f"{kernel.family.name} {kernel.knobs_text}", seconds


def _best(call: Callable[[], None], count: int) -> float:
    """Seconds of one call: the least of several runs of `count` calls."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - start) / count)
    return min(times)


def main() -> None:
    """Print one line a layer."""
    mcpu = sys.argv[1] if len(sys.argv) > 1 else codegen.llvm_get_system_cpu()
    features = frozenset(codegen.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})))
    peak_layer = Conv2dWorkload(1, 1, 56, 256, 64, (1, 1))
    peak_call, _, _ = _kernel_call(peak_layer, mcpu, features)
    for network, layers in LAYERS.items():
        for w in layers:
            call, name, seconds = _kernel_call(w, mcpu, features)
            call()
            rate = w.macs / _best(call, max(1, int(4e8 / w.macs))) / 1e9
            peak = peak_layer.macs / _best(peak_call, 400) / 1e9
            line = f"{network:12s} {w.in_height:4d}x{w.in_channels:<4d} -> {w.out_channels:<4d}"
            line += f" k{w.kernel[0]} s{w.stride[0]}"
            sys.stdout.write(
                f"{line}  {rate:6.1f} GMAC/s {rate / peak:5.2f} of {peak:.1f}  built {seconds:.2f} s  {name}\n"
            )


if __name__ == "__main__":
    main()
