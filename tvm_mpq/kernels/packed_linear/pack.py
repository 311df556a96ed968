"""Weights of few bits as bytes, in the order in which the kernel reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packed_linear.shape import QUAD, LinearShape

Bytes = npt.NDArray[np.uint8]


def unsigned_codes(weight: npt.NDArray[np.int8], shape: LinearShape) -> Bytes:
    """int8[O, I] -> u of each weight, uint8[O, steps * inputs of a step]; missing inputs have 0."""
    coding = shape.coding
    codes = ((weight + np.int8(coding.offset)) // coding.step).astype(np.uint8)
    return np.pad(codes, [(0, 0), (0, shape.steps * coding.inputs - weight.shape[1])])


def pack_tiles(codes: Bytes, shape: LinearShape) -> Bytes:
    """uint8[O, steps, 4] in the fields' range -> uint8[`shape.weight_shape`]; missing outputs and fields are 0."""
    fields, parts = shape.coding.fields, shape.parts
    wide = np.pad(codes, [(0, shape.all_parts * shape.lanes - len(codes)), (0, 0), (0, 0)])
    blocked = wide.reshape(shape.all_parts, shape.lanes, shape.steps, QUAD)
    tiles = blocked[np.add.outer(shape.firsts, np.arange(parts))]
    tiles = np.pad(tiles, [(0, 0), (0, shape.vectors * fields - parts), (0, 0), (0, 0), (0, 0)])
    split = tiles.reshape(shape.tiles, shape.vectors, fields, *blocked.shape[1:])
    shifts = (np.arange(fields) * shape.coding.bits).astype(np.uint8)
    packed = np.bitwise_or.reduce(split << shifts[:, None, None, None], axis=2)
    return np.ascontiguousarray(packed.transpose(0, 3, 1, 2, 4))
