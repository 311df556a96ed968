"""Loop extents of a look-up convolution with tables of 16 entries, and the bounds that keep its sums exact.

A *table* is 16 bytes: the subset sums of four activations, entry e = sum of the activations whose bit is set in e. A
position has one table for every four input channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.conv.geometry import BLOCK
from tvm_mpq.kernels.lut.coding import Coding
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.schema import Conv2dWorkload

GROUP = 4
"""Activations of one table."""
TABLE_BYTES = 16
_MOST_SUMS = 4


def greatest(activation_bits: int) -> int:
    """The greatest entry of a table.

    >>> greatest(4)
    60
    """
    return GROUP * ((1 << activation_bits) - 1)


def sums_limit(activation_bits: int) -> int:
    """How many looked-up bytes may be added before they overflow, an even number; 0 when not even two fit.

    >>> [sums_limit(b) for b in (2, 3, 4, 5, 6)]
    [4, 4, 4, 2, 0]
    """
    return min(_MOST_SUMS, 255 // greatest(activation_bits)) // 2 * 2


def lookups_limit(weight_bits: int, activation_bits: int) -> int:
    """How many tables one 16 bit counter may take: each adds up to one entry for every bit of a weight.

    >>> lookups_limit(2, 5), lookups_limit(1, 4)
    (264, 1092)
    """
    return 65535 // (weight_bits * greatest(activation_bits))


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


def part_channels(weight_bits: int) -> int:
    """Output channels of one weight vector: 16 bytes hold each channel's bits of one table."""
    return BLOCK // weight_bits
