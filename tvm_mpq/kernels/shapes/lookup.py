"""Loop extents of a convolution that sums by look-up: rows of tables, positions, and steps of the reduction.

A position has one *table* for every few input channels; what a table is, the subclasses say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.schema import Conv2dWorkload, padded_channels

_FOLDED = (28, 112)  # positions of one table row where a map without taps is cut freely
_TILE = 7  # columns of the tile that usually wins

Shape = TypeVar("Shape", bound="LookupShape")


@dataclass(frozen=True)
class LookupShape:
    """The convolution as output rows x columns over rows of tables.

    Where the kernel has one row (column) and no padding, only the input rows (columns) that are used get tables:
    `row_scale` (`column_scale`) input steps lie between neighbours and the stride in tables is 1. A 1x1 convolution of
    stride 1 without padding is cut into rows of at most 112 positions, the last one moved back (`folded`).
    """

    batch: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]  # in tables
    row_scale: int
    column_scale: int
    folded: int  # positions in all, 0 when rows are rows of the map
    in_height: int
    in_width: int
    top: int
    left: int
    in_channels: int
    in_cells: int
    tables: int  # of one position

    @classmethod
    def covering(cls: type[Shape], w: Conv2dWorkload, table_channels: int) -> Shape:
        """The shape of `w` with tables of so many input channels."""
        (kh, kw), (sh, sw) = w.kernel, w.stride
        top, left = w.padding[0], w.padding[1]
        tables = tiles(w.in_channels, table_channels)
        last = (w.in_height, w.in_width, top, left, w.in_channels, padded_channels(w.in_channels), tables)
        if w.kernel == w.stride == (1, 1) and not any(w.padding):
            count = w.batch * w.in_height * w.in_width
            width = _folded_width(count)
            return cls(1, tiles(count, width), width, (1, 1), (1, 1), 1, 1, count, *last)
        row_scale = sh if kh == 1 and not (top or w.padding[2]) else 1
        column_scale = sw if kw == 1 and not (left or w.padding[3]) else 1
        stride = (sh // row_scale, sw // column_scale)
        return cls(w.batch, w.out_height, w.out_width, w.kernel, stride, row_scale, column_scale, 0, *last)

    @property
    def rows(self) -> int:
        """Rows of tables of one image."""
        return (self.out_height - 1) * self.stride[0] + self.kernel[0]

    @property
    def columns(self) -> int:
        """Positions of one row of tables."""
        return (self.out_width - 1) * self.stride[1] + self.kernel[1]

    @property
    def lookups(self) -> int:
        """Tables that one kernel row meets."""
        return self.kernel[1] * self.tables

    def slots(self, band: int) -> int:
        """Rows of tables held at once when `band` output rows are done together: all, or a power of two."""
        if band >= self.out_height:
            return self.rows
        needed = (band - 1) * self.stride[0] + self.kernel[0]
        return min(self.rows, 1 << (needed - 1).bit_length())

    @property
    def line_bytes(self) -> int:
        """One input row with its border, and what the last table's loads read past it."""
        return self.columns * self.in_cells + 64


def _folded_width(count: int) -> int:
    """The row length at which `count` positions need the fewest tiles."""
    low, high = (min(count, end) for end in _FOLDED)
    return min(range(low, high + 1), key=lambda width: (tiles(count, width) * tiles(width, _TILE), width))
