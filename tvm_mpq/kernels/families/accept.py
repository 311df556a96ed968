"""Which convolutions a family takes, whatever the machine: what `Family.accepts` is made of."""

from __future__ import annotations

from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import Conv2dWorkload, padded_channels


def workload_of(request: Request) -> Conv2dWorkload:
    assert isinstance(request.workload, Conv2dWorkload)
    return request.workload


def finishable(request: Request) -> bool:
    return request.out_bits <= 8 or is_clamp(workload_of(request).activation)


def is_dense(request: Request) -> bool:
    return workload_of(request).groups == 1 and finishable(request)


def is_grouped(request: Request) -> bool:
    return workload_of(request).groups > 1 and finishable(request) and not is_depthwise(request)


def is_depthwise(request: Request) -> bool:
    w = workload_of(request)
    plain = w.is_depthwise and w.out_channels == w.in_channels
    return plain and padded_channels(w.in_channels) >= 16 and finishable(request)
