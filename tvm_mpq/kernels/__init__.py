"""Kernels: TIR for each operator x precision x ISA. Importing this package fills the table in `registry`."""

from __future__ import annotations

from tvm_mpq.kernels import carriers, conv, conv_neon, float_conv, lut, nibble_lut  # noqa: F401  each registers rows
from tvm_mpq.kernels.registry import (
    Family,
    Kernel,
    Request,
    candidates,
    default_kernel,
    families,
    fitting,
    named_kernel,
)
from tvm_mpq.schema import FLOAT_BITS, Precision, Workload

OFFERED = tuple(map(Precision.parse, ("fp32", "bf16", "w8a8", "w4a8", "w2a4", "w1a4")))
"""Precisions that `optimize` searches when kernels of their own fit the target, most bits first."""


def candidate_precisions(workload: Workload, features: frozenset[str], threads: int = 1) -> list[Precision]:
    """The offered precisions that a kernel family of their own serves for this workload.

    Fewer bits served by the same code as more bits would only lose accuracy, so they are no candidates.
    """
    found: dict[str, Precision] = {}
    for precision in OFFERED:
        out_bits = FLOAT_BITS if precision.is_float else 8
        rows = fitting(Request(workload, precision, out_bits, features, threads))
        if rows:
            found.setdefault(rows[0].name, precision)
    return list(found.values())


__all__ = [
    "OFFERED",
    "Family",
    "Kernel",
    "Request",
    "candidate_precisions",
    "candidates",
    "default_kernel",
    "families",
    "fitting",
    "named_kernel",
]
