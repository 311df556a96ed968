"""Which convolutions tables help: what `Family.accepts` of every look-up family is made of."""

from __future__ import annotations

from tvm_mpq.kernels.families.accept import is_dense, workload_of
from tvm_mpq.kernels.registry import Request


def is_tabled(request: Request) -> bool:
    """A dense convolution without dilation."""
    return is_dense(request) and workload_of(request).dilation == (1, 1)
