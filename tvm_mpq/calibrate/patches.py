"""What the weights of an operator meet: the values of its input under the kernel, at some output positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tvm_mpq.schema import Conv2dWorkload

T = TypeVar("T", np.float32, np.uint8)


def choose_positions(workload: Conv2dWorkload, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """int64[P, 3]: batch, row and column of at most `count` different output positions."""
    shape = (workload.batch, workload.out_height, workload.out_width)
    whole = int(np.prod(shape))
    picked = np.arange(whole) if whole <= count else np.sort(rng.choice(whole, count, replace=False))
    return np.stack(np.unravel_index(picked, shape), axis=1).astype(np.int64)


def patches(
    workload: Conv2dWorkload,
    tensors: Sequence[npt.NDArray[T]],
    positions: Sequence[npt.NDArray[np.int64]],
    zero: int = 0,
) -> npt.NDArray[T]:
    """The inputs under the kernel, `zero` where it hangs over the edge or between dilated rows.

    Parameters
    ----------
    tensors : float32[N, H, W, C] or uint8[N, H, W, C] for each sample
    positions : int64[P, 3] for each sample
        Batch, row, column of the output.

    Returns
    -------
    of the tensors' dtype [G, sum of P, n]
        n = KH * KW * C / G in the order of a row of the weight; sample after sample.
    """
    w = workload
    ends = np.cumsum([0, *map(len, positions)])
    found = np.empty((w.groups, ends[-1], w.terms), tensors[0].dtype)
    for x, some, start, stop in zip(tensors, positions, ends, ends[1:], strict=False):
        found[:, start:stop] = _of_one(w, x, some, zero)
    return found


def _of_one(w: Conv2dWorkload, x: npt.NDArray[T], positions: npt.NDArray[np.int64], zero: int) -> npt.NDArray[T]:
    rows, row_hits = _source(positions[:, 1], 0, w)
    columns, column_hits = _source(positions[:, 2], 1, w)
    batch = positions[:, 0][:, None, None]
    found = x.reshape(w.batch, w.in_height, w.in_width, w.in_channels)[batch, rows[:, :, None], columns[:, None, :]]
    hits = row_hits[:, :, None] & column_hits[:, None, :]
    if not hits.all():
        found[~hits] = zero
    found = found.reshape(len(positions), w.kernel[0] * w.kernel[1], w.groups, w.in_channels // w.groups)
    return found.transpose(2, 0, 1, 3).reshape(w.groups, len(positions), -1)


def _source(
    outputs: npt.NDArray[np.int64], axis: int, w: Conv2dWorkload
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Of the input under each tap: int64[P, K] rows or columns, 0 where there is none; bool[P, K] whether one is."""
    taps = np.arange(w.kernel[axis]) * w.dilation[axis]
    at = outputs[:, None] * w.stride[axis] - w.padding[axis] + taps
    every, size = w.input_dilation[axis], (w.in_height, w.in_width)[axis]
    hits = (at >= 0) & (at < (size - 1) * every + 1) & (at % every == 0)
    return np.where(hits, at // every, 0), hits
