"""Weights of one bit as words of 32 channels, and what a row of packed activations looks like.

A position holds the bits of its channels in units of sixteen. A kernel row is a run of such bits, read in words of 32,
the last one perhaps half: positions lie side by side, so a word may hold the end of one and the begin of the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks
from tvm_mpq.kernels.shapes.lookup import LookupShape
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.schema import Conv2dWorkload

UNIT = 16
"""Channels whose bits lie together: what an integer tensor is padded to."""
UNIT_BYTES = UNIT // 8
WORD = 32
"""Channels of one lane."""
WORD_BYTES = WORD // 8


@dataclass(frozen=True)
class BitShape(LookupShape):
    """`LookupShape` whose tables are units of packed channels."""

    @classmethod
    def of(cls, w: Conv2dWorkload) -> BitShape:
        """The shape of the convolution `w`."""
        return cls.covering(w, UNIT)

    @property
    def words(self) -> int:
        """Words of one kernel row, the last one perhaps half."""
        return tiles(self.lookups * UNIT, WORD)

    @property
    def ends_in_half(self) -> bool:
        """Whether the last word of a kernel row is half."""
        return self.lookups % 2 == 1

    @property
    def plane_bytes(self) -> int:
        """Bytes of one row of one bit of the activations, rounded up to whole lines of the cache."""
        return tiles(self.columns * self.tables * UNIT_BYTES, 64) * 64


def word_shape(shape: BitShape, outputs: int) -> tuple[int, int, int]:
    """Shape of what `pack_bits` returns for so many output channels."""
    return (blocks(outputs), shape.kernel[0] * shape.words, BLOCK)


def pack_bits(weight: Int8Array, shape: BitShape) -> npt.NDArray[np.int32]:
    """int8[O, KH, KW, I] of -1 and 1 -> int32[ceil(O/16), KH * words, 16]; bit i of a word is channel i, set for 1.

    What is missing (channels, the other half of the last word of a kernel row) has no bit set.
    """
    o, kh, _, channels = weight.shape
    missing = blocks(o) * BLOCK - o, shape.tables * UNIT - channels
    bits = np.pad(weight > 0, [(0, missing[0]), (0, 0), (0, 0), (0, missing[1])]).reshape(-1, kh, shape.lookups * UNIT)
    bits = np.pad(bits, [(0, 0), (0, 0), (0, shape.words * WORD - bits.shape[2])])
    words = np.packbits(bits, axis=2, bitorder="little").view("<i4").reshape(blocks(o), BLOCK, -1)
    return np.ascontiguousarray(words.transpose(0, 2, 1))
