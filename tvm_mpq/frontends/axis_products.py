"""A constant matrix times a tensor along one of its axes: what every interpolation is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

_MOST_TAPS = 4
"""A result that reads more elements of an axis than this is a matrix product along it, else a sum of shifted copies."""


def along(data: Any, axis: int, rank: int, matrix: npt.NDArray[np.float32]) -> Any:
    """The product of `matrix`, float32[result, size], with `data` along one axis of that size."""
    taps = int(np.count_nonzero(matrix, axis=1).max(initial=1))
    if taps > _MOST_TAPS:
        last = [a for a in range(rank) if a != axis] + [axis]
        moved = relax.op.permute_dims(data, last)
        product = relax.op.matmul(moved, relax.const(np.ascontiguousarray(matrix.T)))
        return relax.op.permute_dims(product, [last.index(a) for a in range(rank)])
    order = np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps]
    weights = np.take_along_axis(matrix, order, axis=1)
    summed = None
    for tap in range(taps):
        part = relax.op.take(data, relax.const(order[:, tap].astype(np.int64)), axis, mode="clip")
        if not np.all(weights[:, tap] == 1):
            wide = weights[:, tap].reshape([-1 if a == axis else 1 for a in range(rank)])
            part = relax.op.multiply(part, relax.const(wide))
        summed = part if summed is None else relax.op.add(summed, part)
    return summed
