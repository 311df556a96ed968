"""Weights of one and two bits as nibbles that index tables of 16 entries.

A weight w is k * (number of its set bits) - 1: one bit and k = 2 for {-1, 1}; two bits and k = 1 for {-1, 0, 1}, where
0 has the first bit set. So the sum of products is k * (sum of all looked-up entries) - (sum of the activations).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.nibble_lut.shape import GROUP, TABLE_BYTES, NibbleShape, part_channels


def packed_shape(shape: NibbleShape, parts: int, sums: int) -> tuple[int, int, int, int]:
    """Shape of what `pack_nibbles` returns."""
    return (parts, shape.kernel[0] * shape.steps(2 * sums) * sums // 2, 2, TABLE_BYTES)


def pack_nibbles(
    weight: npt.NDArray[np.int8], bits: int, shape: NibbleShape, parts: int, sums: int
) -> npt.NDArray[np.uint8]:
    """int8[O, KH, KW, I] -> uint8[parts, KH * steps * sums / 2, 2, 16].

    Vector i of a step holds tables 4i and 4i + 1 of the step in the low nibbles of its two rows of 16 bytes, tables
    4i + 2 and 4i + 3 in the high ones. Bytes 2j and 2j + 1 of a row are the first and second bit of output channel
    8 * part + j (two bits), or the only bit of channels 16 * part + j and 16 * part + j + 8 (one bit). What is missing
    (channels, tables of the last step) has no bit set and finds entry 0, which is 0 in every table.
    """
    o, kh, kw, channels = weight.shape
    if bits == 1:
        planes = (weight > 0)[..., None]
    else:
        planes = np.stack([weight >= 0, weight > 0], axis=-1)
    width = part_channels(bits)
    padding = [(0, parts * width - o), (0, 0), (0, 0), (0, shape.tables * GROUP - channels), (0, 0)]
    groups = np.pad(planes, padding).reshape(parts * width, kh, kw * shape.tables, GROUP, bits)
    index = (groups << np.arange(GROUP, dtype=np.uint8)[:, None]).sum(axis=3, dtype=np.uint8)
    index = np.pad(index, [(0, 0), (0, 0), (0, shape.slack(2 * sums)), (0, 0)])
    # [part, half of its channels, channel, vector, nibble, row, bit] -> [part, vector, nibble, row, channel, half, bit]
    split = index.reshape(parts, 2 // bits, 8, -1, 2, 2, bits)
    ordered = split.transpose(0, 3, 4, 5, 2, 1, 6).reshape(parts, -1, 2, 2, TABLE_BYTES)
    return np.ascontiguousarray(ordered[:, :, 0] | (ordered[:, :, 1] << 4))
