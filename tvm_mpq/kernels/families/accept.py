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
    return workload_of(request).groups == 1 and finishable(request) and has_phases(request)


def is_grouped(request: Request) -> bool:
    grouped = workload_of(request).groups > 1 and finishable(request)
    return grouped and not is_depthwise(request) and has_phases(request)


def has_phases(request: Request) -> bool:
    """Whether each phase of an input with dilation has an output, and its taps stand one behind the other."""
    w = workload_of(request)
    if w.input_dilation == (1, 1):
        return True
    plain = w.stride == w.dilation == (1, 1)
    return plain and w.out_height >= w.input_dilation[0] and w.out_width >= w.input_dilation[1]


def is_depthwise(request: Request) -> bool:
    w = workload_of(request)
    plain = w.is_depthwise and w.out_channels == w.in_channels and w.input_dilation == (1, 1)
    return plain and padded_channels(w.in_channels) >= 16 and finishable(request)
