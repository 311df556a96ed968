"""Pooling over NHWC: maxima and exact sums of windows that may reach past the map."""

from __future__ import annotations

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.schema import Pool2dWorkload


def max_pool(x: Array, workload: Pool2dWorkload) -> Array:
    """The greatest cell of each window, [N, OH, OW, C] of x's dtype; padding never wins.

    A window without any cell of the map gives the least value of the dtype.
    """
    least = -np.inf if x.dtype == np.float32 else 0
    return np.asarray(_windows(x, workload, least).max(axis=(4, 5)))


def average_pool(x: Array, workload: Pool2dWorkload) -> Array:
    """The sum of each window's cells, [N, OH, OW, C] of x's dtype, padding 0; the caller divides by `pool_counts`."""
    return np.asarray(_windows(x, workload, 0).sum(axis=(4, 5), dtype=x.dtype))


def _windows(x: Array, work: Pool2dWorkload, fill: float) -> Array:
    """A view [N, OH, OW, C, KH, KW]."""
    expected = (work.batch, work.in_height, work.in_width, work.channels)
    if x.shape != expected or work.mode not in ("max", "avg", "avg_valid"):
        raise InvalidValueError(
            f"pool2d takes max, avg or avg_valid of shape {expected} (got {work.mode!r} of {x.shape})"
        )
    pads = []
    for axis, outs in enumerate((work.out_height, work.out_width)):
        before = work.padding[axis]
        reach = (outs - 1) * work.stride[axis] + work.kernel[axis] - before
        pads.append((before, max(reach - expected[1 + axis], 0)))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, work.kernel, axis=(1, 2))
    views = views[:, :: work.stride[0], :: work.stride[1]]
    return np.asarray(views[:, : work.out_height, : work.out_width])
