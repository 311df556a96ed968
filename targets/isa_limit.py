"""A limit on the ISA features that a CPU is said to offer: under it a rich CPU behaves as a poorer one.

It exists to test what poorer CPUs do (CONTRIBUTING.md). It is an environment variable, because child processes that
compile and measure must know it too, and this file is the only place that reads it.
"""

from __future__ import annotations

import os

from tvm_mpq.errors import UnknownTargetError
from tvm_mpq.targets import cpuinfo
from tvm_mpq.targets.rows import BY_NAME

ISA_LIMIT = "TVM_MPQ_ISA_LIMIT"
"""Name of a target row: a CPU of its architecture is said to offer no feature that the row lacks. Unset = no limit."""


def allowed_features(architecture: str) -> frozenset[str] | None:
    """Features that a CPU of this architecture may be said to offer; None = all that it has.

    Raises
    ------
    UnknownTargetError
        If the variable names no row.
    """
    name = os.environ.get(ISA_LIMIT)
    if not name:
        return None
    row = BY_NAME.get(name)
    if row is None:
        raise UnknownTargetError(f"{ISA_LIMIT} must be unset or one of {', '.join(BY_NAME)} (got {name!r})")
    if row.mtriple is None or cpuinfo.architecture(row.mtriple) != architecture:
        return None
    return frozenset(row.isa_features)
