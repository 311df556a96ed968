"""Loop extents of a look-up convolution with tables of 16 entries.

A *table* is 16 bytes: the subset sums of four activations, entry e = sum of the activations whose bit is set in e. A
position has one table for every four input channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.lut.coding import Coding
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.nibble_lut.coding import GROUP, TABLE_BYTES
from tvm_mpq.schema import Conv2dWorkload

_CODING = Coding(weight_bits=2, group=GROUP, groups=1, signed=False, together=4)


@dataclass(frozen=True)
class NibbleShape(LutShape):
    """`LutShape` over tables of four activations; `count` below is the number of tables of one step."""

    @classmethod
    def of_workload(cls, w: Conv2dWorkload) -> NibbleShape:
        """The shape of the convolution `w`."""
        shape = cls.of(w, _CODING)
        assert isinstance(shape, cls)
        return shape

    def steps(self, count: int) -> int:
        """Steps of one kernel row, the last one perhaps not full."""
        return -(-self.kernel[1] * self.tables // count)

    def slack(self, count: int) -> int:
        """Tables that the last step reads past the window; weights have index 0 there."""
        return self.steps(count) * count - self.kernel[1] * self.tables

    def table_row_bytes(self, count: int) -> int:
        """Tables of one row, those that its last step reads past them, and a whole number of 64 bytes."""
        return -(-(self.columns * self.tables + self.slack(count) + 1) * TABLE_BYTES // 64) * 64
