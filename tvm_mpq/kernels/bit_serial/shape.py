"""Loop extents of a bit-serial convolution: rows of packed activations, and words of weights.

A position holds the bits of its channels in units of sixteen. A kernel row is a run of such bits, read in words of 32,
the last one perhaps half: positions lie side by side, so a word may hold the end of one and the begin of the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.lut.coding import Coding
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.schema import Conv2dWorkload

UNIT = 16
"""Channels whose bits lie together: what an integer tensor is padded to."""
UNIT_BYTES = UNIT // 8
WORD = 32
"""Channels of one lane."""
WORD_BYTES = WORD // 8

_CODING = Coding(weight_bits=1, group=UNIT, groups=1, signed=False, together=1)


@dataclass(frozen=True)
class BitShape(LutShape):
    """`LutShape` whose tables are units of packed channels."""

    @classmethod
    def of_workload(cls, w: Conv2dWorkload) -> BitShape:
        """The shape of the convolution `w`."""
        shape = cls.of(w, _CODING)
        assert isinstance(shape, cls)
        return shape

    @property
    def words(self) -> int:
        """Words of one kernel row, the last one perhaps half."""
        return -(-self.lookups * UNIT // WORD)

    @property
    def ends_in_half(self) -> bool:
        return self.lookups % 2 == 1

    @property
    def unit_row_bytes(self) -> int:
        """Packed bytes of one row, rounded up to whole lines of the cache."""
        return -(-self.columns * self.tables * UNIT_BYTES // 64) * 64
