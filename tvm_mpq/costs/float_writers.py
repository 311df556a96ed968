"""Integer kernels that write floats: estimated until a plan needs them, by what writing floats costs at 8 bits.

Every operator could hand floats to whatever reads it, at each of its precisions: as many kernels again as the network
has, of which a plan runs a few or none. What they take beyond their twins that write bytes is measured at w8a8 alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from tvm_mpq.costs.profiler import KernelProfiler
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Kernel, Request
from tvm_mpq.schema import FLOAT_BITS, W8A8, LatencyKey
from tvm_mpq.select.problem import INTEGER_CLASS

STATED_ERROR = 0.25
"""Of 174 kernels of MobileNetV2 and ResNet-20 on AVX2 half were estimated within 7 %, three quarters within 15 %, nine
of ten within 27 %. Estimates are moved by it to the slow end: of many kernels a plan would else take those whose
estimate errs, and be selected anew once they are measured."""

LEAST_SHARE = 0.5
"""Of the twin's time, which an estimate is never below."""


def twins(request: Request) -> tuple[Request, Request, Request]:
    """The request that writes bytes, and both at w8a8, writing floats and bytes."""
    wide = dataclasses.replace(request, precision=W8A8)
    return dataclasses.replace(request, out_bits=INTEGER_CLASS), wide, dataclasses.replace(wide, out_bits=INTEGER_CLASS)


def estimate(
    profiler: KernelProfiler, table: LatencyTable, waiting: Mapping[LatencyKey, Kernel]
) -> dict[LatencyKey, Kernel]:
    """Enter estimates of these kernels' times; returns those for which a twin's time is missing."""
    left = {}
    for key, kernel in waiting.items():
        own, wide, wide_bytes = times = tuple(map(table.latency_us, twins(kernel.request)))
        if not all(map(math.isfinite, times)):
            left[key] = kernel
            continue
        us = (1 + STATED_ERROR) * max(own + wide - wide_bytes, LEAST_SHARE * own)
        table.offer(kernel, profiler.prediction(key, kernel, us, STATED_ERROR))
    return left


def may_wait(request: Request, offered: set[str]) -> bool:
    """Whether a request can be estimated where these keys are measured."""
    few = not request.precision.is_float and request.precision != W8A8
    return request.out_bits == FLOAT_BITS and few and all(twin.key in offered for twin in twins(request))
