"""Weights of one bit as words of 32 channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.bit_serial.shape import UNIT, WORD, BitShape
from tvm_mpq.kernels.frames.geometry import BLOCK


def packed_shape(shape: BitShape) -> tuple[int, int, int]:
    """Shape of what `pack_bits` returns."""
    return (shape.out_blocks, shape.kernel[0] * shape.words, BLOCK)


def pack_bits(weight: npt.NDArray[np.int8], shape: BitShape) -> npt.NDArray[np.int32]:
    """int8[O, KH, KW, I] of -1 and 1 -> int32[ceil(O/16), KH * words, 16]; bit i of a word is channel i, set for 1.

    What is missing (channels, the other half of the last word of a kernel row) has no bit set.
    """
    o, kh, _, channels = weight.shape
    missing = shape.out_blocks * BLOCK - o, shape.tables * UNIT - channels
    bits = np.pad(weight > 0, [(0, missing[0]), (0, 0), (0, 0), (0, missing[1])]).reshape(-1, kh, shape.lookups * UNIT)
    bits = np.pad(bits, [(0, 0), (0, 0), (0, shape.words * WORD - bits.shape[2])])
    words = np.packbits(bits, axis=2, bitorder="little").view("<i4").reshape(shape.out_blocks, BLOCK, -1)
    return np.ascontiguousarray(words.transpose(0, 2, 1))
