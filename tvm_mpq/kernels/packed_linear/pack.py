"""Weights of one, two and four bits as unsigned fields of bytes, in the order in which the kernel reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packed_linear.shape import QUAD, LinearShape


def pack_fields(weight: npt.NDArray[np.int8], shape: LinearShape) -> npt.NDArray[np.uint8]:
    """int8[O, I] -> uint8[`shape.weight_shape`]; missing channels have fields of 0."""
    coding = shape.coding
    out_channels, in_channels = weight.shape
    fields = ((weight + np.int8(coding.offset)) // coding.step).astype(np.uint8)
    missing = shape.all_parts * shape.lanes - out_channels, shape.steps * QUAD - in_channels
    wide = np.pad(fields, [(0, missing[0]), (0, missing[1])])
    parts = wide.reshape(shape.all_parts, shape.lanes, shape.steps, QUAD)
    tiles = parts[np.add.outer(shape.firsts, np.arange(shape.parts))]
    tiles = np.pad(tiles, [(0, 0), (0, shape.vectors * coding.fields - shape.parts), (0, 0), (0, 0), (0, 0)])
    split = tiles.reshape(shape.tiles, shape.vectors, coding.fields, *parts.shape[1:])
    shifts = (np.arange(coding.fields) * coding.bits).astype(np.uint8)
    packed = np.bitwise_or.reduce(split << shifts[:, None, None, None], axis=2)
    return np.ascontiguousarray(packed.transpose(0, 3, 1, 2, 4))
