"""Which convolutions tables help: what `Family.accepts` of every look-up family is made of."""

from __future__ import annotations

from tvm_mpq.kernels.conv.accept import is_dense, workload_of
from tvm_mpq.kernels.registry import Request

_LEAST_POSITIONS = 4
"""Linear layers with fewer rows are bound by reading weights: tables do not help there."""


def is_tabled(request: Request) -> bool:
    """A dense convolution without dilation whose tables serve some positions."""
    w = workload_of(request)
    few = w.kernel == (1, 1) and w.batch * w.out_height * w.out_width < _LEAST_POSITIONS
    return is_dense(request) and w.dilation == (1, 1) and not few
