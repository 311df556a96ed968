"""Winograd's short convolutions over whole numbers: 3x3 kernels with fewer products, exact for all operands.

Of m + 2 neighbouring inputs d and three taps g, m outputs are `A^T [(G g) * (B^T d)]`, here with whole matrices, so
that the result is `scale` times the outputs. In two dimensions the transforms are applied to rows and columns, and the
result is scale^2 times the outputs: it is computed modulo 2^32 and divided exactly, the odd part of scale^2 by its
inverse modulo 2^32, the rest by a shift.

Six inputs use the points 0, 1, -1, 2, -1/2 and infinity: scale^2 is 900 = 4 * 225, while the usual points 0, 1, -1, 2,
-2 and infinity would have 576 = 64 * 9 and leave only 26 bits of an output. Source: S. Winograd, Arithmetic Complexity
of Computations (1980); A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks
from tvm_mpq.numerics.affine import unsigned_range, weight_range
from tvm_mpq.numerics.arrays import Int8Array

TAPS = 3
_Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Winograd:
    """One size of the transform. taps: G; inputs: B^T; outputs: A^T."""

    outputs_at_once: int
    scale: int
    taps: _Rows
    inputs: _Rows
    outputs: _Rows

    @property
    def points(self) -> int:
        """Inputs of one row of a tile, and products along it."""
        return self.outputs_at_once + TAPS - 1

    @property
    def shift(self) -> int:
        """Twos in scale^2.

        >>> TRANSFORMS[2].shift, TRANSFORMS[4].shift
        (2, 2)
        """
        square = self.scale**2
        return (square & -square).bit_length() - 1

    @property
    def inverse(self) -> int:
        """What the odd part of scale^2 is multiplied by to give 1 modulo 2^32.

        >>> TRANSFORMS[4].inverse * 225 % 2**32
        1
        """
        return pow(self.scale**2 >> self.shift, -1, 1 << 32)

    @cached_property
    def greatest_input(self) -> int:
        """The greatest transformed input for inputs of 0 and 1.

        >>> TRANSFORMS[2].greatest_input, TRANSFORMS[4].greatest_input
        (4, 98)
        """
        return _greatest(np.array(self.inputs))

    @cached_property
    def greatest_weight(self) -> int:
        """The greatest transformed weight for weights of -1, 0 and 1.

        >>> TRANSFORMS[2].greatest_weight, TRANSFORMS[4].greatest_weight
        (9, 225)
        """
        rows = np.abs(np.array(self.taps)).sum(axis=1)
        return int(rows.max()) ** 2

    def exact(self, weight_bits: int, activation_bits: int) -> bool:
        """Whether all transformed operands fit 16 bits.

        >>> TRANSFORMS[4].exact(8, 8)
        True
        """
        inputs = self.greatest_input * unsigned_range(activation_bits)[1]
        return max(inputs, self.greatest_weight * weight_range(weight_bits)[1]) <= 32767


def _greatest(rows: npt.NDArray[np.int64]) -> int:
    """The greatest |sum| of products of two rows' entries, over inputs of 0 and 1."""
    both = np.einsum("ai,bj->abij", rows, rows).reshape(len(rows) ** 2, -1)
    return int(max(np.maximum(both, 0).sum(axis=1).max(), np.maximum(-both, 0).sum(axis=1).max()))


TRANSFORMS = {
    2: Winograd(
        outputs_at_once=2,
        scale=2,
        taps=((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)),
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, 1)),
    ),
    4: Winograd(
        outputs_at_once=4,
        scale=30,
        taps=((15, 0, 0), (5, 5, 5), (5, -5, 5), (1, 2, 4), (4, -2, 1), (0, 0, 15)),
        inputs=(
            (2, 3, -4, -3, 2, 0),
            (0, 2, 5, 1, -2, 0),
            (0, 2, 1, -5, 2, 0),
            (0, -1, -2, 1, 2, 0),
            (0, -2, 1, 2, -1, 0),
            (0, 2, 3, -4, -3, 2),
        ),
        outputs=((1, 1, 1, 1, 8, 0), (0, 1, -1, 2, -4, 0), (0, 1, 1, 4, 2, 0), (0, 1, -1, 8, -1, 1)),
    ),
}
"""By the outputs that a tile has in each direction."""


def packed_shape(t: Winograd, out_blocks: int, cells: int) -> tuple[int, ...]:
    """Shape of what `pack_winograd` returns."""
    return (out_blocks, t.points**2, 2, cells // 2, BLOCK // 2, 4)


def pack_winograd(t: Winograd, weight: Int8Array, cells: int) -> Int8Array:
    """int8[O, 3, 3, I] to transformed int16[O/16, points^2, 2, cells / 2, 8, 2] in bytes.

    The axes between channels: products, vectors of a block, pairs of input channels.
    """
    o, _, _, channels = weight.shape
    full = np.zeros((blocks(o) * BLOCK, TAPS, TAPS, cells), np.int32)
    full[:o, :, :, :channels] = weight
    g = np.array(t.taps, np.int32)
    wide = np.einsum("ai,bj,oijc->oabc", g, g, full).astype(np.int16)
    split = wide.reshape(blocks(o), 2, BLOCK // 2, t.points**2, cells // 2, 2)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 4, 2, 5)).view(np.int8)
