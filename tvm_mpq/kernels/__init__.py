"""Kernels: TIR for each operator x precision x ISA. Importing this package fills the table in `registry`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tvm_mpq.kernels.families import (  # noqa: F401  each registers rows
    activation,
    attention,
    avxvnni,
    concat,
    convert,
    copy,
    dense,
    elementwise,
    float_convolution,
    half_convolution,
    linear,
    lookup,
    neon,
    norm,
    pool,
    recurrent,
    winograd,
)
from tvm_mpq.kernels.registry import (
    Family,
    Kernel,
    Request,
    candidates,
    default_kernel,
    families,
    fitting,
    longest_sum,
    named_kernel,
)
from tvm_mpq.schema import BF16, FLOAT_BITS, FP16, FP32, W8A8, LeftOutReason, Precision, Workload

OFFERED = (FP32, BF16, FP16, *(Precision(bits, 8) for bits in range(8, 0, -1)), Precision(2, 4), Precision(1, 4))
"""Precisions that `optimize` searches when kernels of their own fit the target, most bits first."""

ALWAYS = (FP32, W8A8)
"""What no choice of precisions leaves out: the source network, and the one that speed is compared with."""


def candidate_precisions(
    workload: Workload,
    features: frozenset[str],
    threads: int = 1,
    offered: Iterable[Precision] = OFFERED,
    *,
    same_code: bool = False,
) -> list[Precision]:
    """The offered precisions that code of their own serves for this workload.

    Fewer bits served by the same code as more bits would only lose accuracy, so they are no candidates. same_code: they
    are all the same, for whoever asks what they cost on another machine than this code's.
    """
    found = candidacy(workload, features, threads, offered, same_code=same_code)
    return [precision for precision, reason in found.items() if reason is None]


def candidacy(
    workload: Workload,
    features: frozenset[str],
    threads: int = 1,
    offered: Iterable[Precision] = OFFERED,
    *,
    same_code: bool = False,
) -> dict[Precision, LeftOutReason | None]:
    """The offered precisions, most bits first, and why each is no candidate; None = it is one.

    The arguments are those of `candidate_precisions`.
    """
    found: dict[Precision, LeftOutReason | None] = {}
    codes: set[tuple[str, Any]] = set()
    for precision in sorted({*ALWAYS, *offered}, reverse=True):
        out_bits = FLOAT_BITS if workload.is_float_at(precision) else 8
        request = Request(workload, precision, out_bits, features, threads)
        rows = fitting(request)
        if not rows:
            found[precision] = LeftOutReason.NO_KERNEL
        elif not rows[0].offered:
            found[precision] = LeftOutReason.SLOWER
        else:
            code = (rows[0].name, precision if same_code else rows[0].variant(request))
            found[precision] = LeftOutReason.SAME_CODE if code in codes else None
            codes.add(code)
    return found


__all__ = [
    "ALWAYS",
    "OFFERED",
    "Family",
    "Kernel",
    "Request",
    "candidacy",
    "candidate_precisions",
    "candidates",
    "default_kernel",
    "families",
    "fitting",
    "longest_sum",
    "named_kernel",
]
