"""Tiny functions of generated code, compiled for this CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm

from tvm_mpq.kernels.emit import (
    Function,
    Parameter,
    function,
)
from tvm_mpq.targets import local_row, to_tvm


def compiled(params: list[Parameter], write: Callable[[Function], None]) -> Callable[..., np.ndarray]:
    """What `write` writes over `params`, as a function of all arrays but the last, which it returns."""
    with function(params) as f:
        write(f)
    entry = tvm.compile(tvm.IRModule({"main": f.func}), target=to_tvm(local_row(), cores=2))["main"]
    out = params[-1]

    def call(*arrays: np.ndarray) -> np.ndarray:
        result = tvm.runtime.tensor(np.full(out.shape, 77, out.dtype))
        entry(*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), result)
        return result.numpy()

    return call
