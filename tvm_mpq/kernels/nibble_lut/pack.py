"""Weights as nibbles that index tables of 16 entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.nibble_lut.coding import GROUP, TABLE_BYTES, NibbleCoding
from tvm_mpq.kernels.nibble_lut.shape import NibbleShape


def packed_shape(shape: NibbleShape, coding: NibbleCoding, parts: int, sums: int) -> tuple[int, ...]:
    """Shape of what `pack_nibbles` returns."""
    return (parts, coding.planes, shape.kernel[0] * shape.steps(2 * sums) * sums // 2, 2, TABLE_BYTES)


def pack_nibbles(
    weight: npt.NDArray[np.int8],
    shape: NibbleShape,
    coding: NibbleCoding,
    parts: int,
    sums: int,
    byte_channels: Sequence[int],
) -> npt.NDArray[np.uint8]:
    """int8[O, KH, KW, I] -> uint8[parts, planes, KH * steps * sums / 2, 2, 16].

    Vector i of a step holds tables 4i and 4i + 1 of the step in the low nibbles of its two rows of 16 bytes, tables
    4i + 2 and 4i + 3 in the high ones. Two bits that stand beside each other are bytes 2j and 2j + 1 of a row, for
    output channel 8 * part + j; a single one is byte j of a row, for channel 16 * part + byte_channels[j]. What is
    missing (channels, tables of the last step) has no bit set and finds entry 0, which is 0 in every table.
    """
    o, kh, kw, channels = weight.shape
    width = coding.part_channels
    padding = [(0, parts * width - o), (0, 0), (0, 0), (0, shape.tables * GROUP - channels), (0, 0), (0, 0)]
    bits = np.pad(coding.bits(weight), padding)
    groups = bits.reshape(parts * width, kh, kw * shape.tables, GROUP, coding.planes, coding.beside)
    index = (groups << np.arange(GROUP, dtype=np.uint8)[:, None, None]).sum(axis=3, dtype=np.uint8)
    index = np.pad(index, [(0, 0), (0, 0), (0, shape.slack(2 * sums)), (0, 0), (0, 0)])
    # [part, channel, vector, nibble, row, plane, bit] -> [part, plane, vector, nibble, row, channel, bit]
    split = index.reshape(parts, width, -1, 2, 2, coding.planes, coding.beside)
    if coding.beside == 1:
        split = split[:, list(byte_channels)]
    ordered = split.transpose(0, 5, 2, 3, 4, 1, 6).reshape(parts, coding.planes, -1, 2, 2, TABLE_BYTES)
    return np.ascontiguousarray(ordered[:, :, :, 0] | (ordered[:, :, :, 1] << 4))
