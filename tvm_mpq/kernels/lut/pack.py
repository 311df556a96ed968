"""Weights of one and two bits as table indices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.frames.geometry import BLOCK
from tvm_mpq.kernels.lut.coding import SLOTS
from tvm_mpq.kernels.lut.shape import LutShape


def index_shape(shape: LutShape) -> tuple[int, int, int, int]:
    """Shape of what `pack_indices` returns."""
    return (shape.out_blocks, shape.kernel[0] * shape.lookups, BLOCK, SLOTS)


def pack_indices(weight: npt.NDArray[np.int8], shape: LutShape, depth: int) -> npt.NDArray[np.uint8]:
    """int8[O, KH, KW, I] -> uint8[ceil(O/16), KH * KW * tables, 16, 4], look-ups in the order of `shape.order(depth)`.

    The four bytes of an output channel are bit planes of the groups: (0, 0), (1, 0), (0, 1), (1, 1) as (plane, group)
    of two's complement weights in [-2, 1]; with one plane, whose bits are those of positive weights in {-1, 1}, the
    groups 0..3. A byte has one bit for each activation, and above them its group. Missing input channels have no bit
    set: their activations are chosen by no entry, or are 0 in the table. Missing output channels hold anything.
    """
    o, kh, kw, channels = weight.shape
    coding = shape.coding
    bits = (weight > 0).astype(np.uint8) if coding.planes == 1 else weight.view(np.uint8)
    missing = shape.out_blocks * BLOCK - o, shape.tables * coding.channels - channels
    wide = np.pad(bits, [(0, missing[0]), (0, 0), (0, 0), (0, missing[1])])
    groups = wide.reshape(-1, kh, kw, shape.tables, coding.groups, coding.group)
    planes = np.stack([(groups >> p) & 1 for p in range(coding.planes)], axis=-2)  # [..., group, plane, activation]
    index = (planes << np.arange(coding.group, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
    index += (np.arange(coding.groups, dtype=np.uint8) << coding.group)[:, None]
    index = index.reshape(-1, kh, kw, shape.tables, SLOTS)
    taken, columns = zip(*shape.order(depth), strict=True)
    ordered = index[:, :, list(columns), list(taken)]
    blocked = ordered.reshape(shape.out_blocks, BLOCK, kh * shape.lookups, SLOTS)
    return np.ascontiguousarray(blocked.transpose(0, 2, 1, 3))
