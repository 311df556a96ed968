"""The sentinel: one fixed small kernel, timed between the candidates, that shows when the machine changes its speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tvm

from tvm_mpq.errors import MeasurementError
from tvm_mpq.tuning.compile.build import build_modules

FUNCTION = "mpq_sentinel"
_LANES = 64
# Dependent multiply-adds in registers: time = clock frequency and share of the core, whatever the caches hold.
_SOURCE = f"""
# from tvm.script import tirx as T
@T.prim_func(s_tir=True)
def {FUNCTION}(A: T.Buffer(({_LANES},), "float32"), O: T.Buffer(({_LANES},), "float32")):
    T.func_attr({{"tirx.noalias": True, "tirx.is_scheduled": True}})
    for i in range({_LANES}):
        O[i] = T.float32(0)
    for step in range(4000):
        for i in T.vectorized({_LANES}):
            O[i] = O[i] * A[i] + A[i]
"""


def build_sentinel(target: tvm.target.Target | None = None, *, linker: str | None = None) -> Path:
    """Compile the sentinel, for this machine unless told otherwise; the file goes away with this process."""
    chosen = tvm.target.Target({"kind": "llvm"}) if target is None else target
    (result,) = build_modules([(FUNCTION, tvm.script.from_source(_SOURCE))], chosen, workers=1, linker=linker)
    if result.path is None:
        raise MeasurementError(f"the sentinel kernel cannot be built: {result.failure}")
    return result.path


def sentinel_args() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Input float32[64] and output float32[64]."""
    return np.full(_LANES, 0.5, np.float32), np.zeros(_LANES, np.float32)
