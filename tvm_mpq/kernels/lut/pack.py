"""Weights of two bits as table indices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.geometry import BLOCK
from tvm_mpq.kernels.lut.shape import GROUP, PER_TABLE, LutShape


def index_shape(shape: LutShape, sums: int) -> tuple[int, int, int, int]:
    """Shape of what `pack_indices` returns."""
    return (shape.out_blocks, shape.kernel[0] * shape.steps(sums) * sums, BLOCK, 4)


def pack_indices(weight: npt.NDArray[np.int8], shape: LutShape, sums: int) -> npt.NDArray[np.uint8]:
    """int8[O, KH, KW, I] in [-2, 1] -> uint8[ceil(O/16), KH * steps * sums, 16, 4].

    The four bytes of an output channel are (bit 0 of group 0, bit 1 of group 0, bit 0 of group 1, bit 1 of group 1) of
    the two's complement weights, one bit for each activation, with 32 added for group 1. What is missing (channels,
    tables of the last step) has no bit set and finds the entry that is 0 in every table.
    """
    o, kh, kw, channels = weight.shape
    wide = np.pad(weight, [(0, shape.out_blocks * BLOCK - o), (0, 0), (0, 0), (0, shape.tables * PER_TABLE - channels)])
    groups = wide.view(np.uint8).reshape(-1, kh, kw * shape.tables, 2, GROUP)
    planes = np.stack([groups & 1, (groups >> 1) & 1], axis=-2)  # [..., group, plane, activation]
    index = (planes << np.arange(GROUP, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
    index += np.array([[0], [32]], np.uint8)
    index = index.reshape(-1, kh, kw * shape.tables, 4)
    index = np.pad(index, [(0, 0), (0, 0), (0, shape.slack(sums)), (0, 0)])
    blocked = index.reshape(shape.out_blocks, BLOCK, -1, 4)
    return np.ascontiguousarray(blocked.transpose(0, 2, 1, 3))
