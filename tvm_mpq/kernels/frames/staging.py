"""Where the inner loops of a float convolution read their inputs: in place, or from a scratch that a task fills first.

The scratch holds the input rows of a block of output positions, with a border of zeros where the convolution has
padding, in the type that the arithmetic wants. Under a 1x1 kernel with strides it holds only the positions that are
read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Value,
    alloc,
    branch,
    constant,
    fill_overlapping,
    let,
    loop,
    span,
    within,
)
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.kernels.frames.phase import Phase
from tvm_mpq.kernels.shapes.geometry import Geometry

_LANES = 16


@dataclass(frozen=True)
class Block:
    """Output rows and columns of one task, which begin at row `oh` and column `ow` of an image."""

    image: Value
    oh: Value
    ow: Index


class Staging:
    """Plans the inputs of blocks of `rows` x `columns` output positions."""

    def __init__(self, g: Geometry, rows: int, columns: int, product: FloatProduct) -> None:
        self._g, self._rows, self._columns, self._product = g, rows, columns, product
        self.copies = g.bordered or product.converts
        self._sampled = self.copies and not g.bordered and g.kernel == (1, 1) and g.stride != (1, 1)
        self._stride = (1, 1) if self._sampled else g.stride

    @property
    def _width(self) -> int:
        """Positions of one row of what is read."""
        if not self.copies:
            return self._g.in_width
        return self._columns if self._sampled else self._reach(1, self._columns)

    @property
    def row_size(self) -> int:
        """Elements from one row of what is read to the next."""
        return self._width * self._g.in_cells

    def _reach(self, axis: int, count: int) -> int:
        """Rows or columns that `count` outputs of all phases read."""
        g = self._g
        if g.phases is None:
            return g.reach(axis, count)
        shorter = (g.out_height - g.least_height, g.out_width - g.least_width)[axis]
        return g.reach(axis, count) + g.phases[axis].span + shorter

    def index(self, block: Block, phase: Phase, oh: Value, ow: Value) -> Value:
        """Element under the first kernel position of an output position of the block."""
        row, column = (oh - block.oh, ow - block.ow) if self.copies else (oh, ow)
        row, column = row * self._stride[0] + phase.row, column * self._stride[1] + phase.column
        if not self.copies:
            row = block.image * self._g.in_height + row
        return row * self.row_size + column * self._g.in_cells

    def shift(self, rows: int, columns: int) -> int:
        """Elements between the inputs of output positions so many rows and columns apart."""
        return rows * self._stride[0] * self.row_size + columns * self._stride[1] * self._g.in_cells

    def stage(self, x: Buffer, block: Block) -> Buffer:
        """The buffer that `index` speaks of: a filled scratch, or `x` itself."""
        if not self.copies:
            return x
        g = self._g
        rows = self._rows if self._sampled else self._reach(0, self._rows)
        size, slack = rows * self.row_size, self._product.width - 1  # a last step reads past a row of odd length
        scratch = alloc(size + slack, self._product.dtype)
        zero = constant(0, scratch.dtype)
        fill_overlapping(scratch, size, zero, slack)
        with loop(rows) as i:
            start = i * self.row_size
            if self._sampled:
                row = (block.image * g.in_height + (block.oh + i) * g.stride[0]) * g.in_width
                with loop(self._width) as p:
                    source = (row + (block.ow + p) * g.stride[1]) * g.in_cells
                    self._copy(scratch, start + p * g.in_cells, x, source, g.in_cells)
            elif g.bordered:
                self._copy_row(scratch, let(start, "row"), x, block, i)
            else:
                row = (block.image * g.in_height + block.oh * g.stride[0] + i) * g.in_width
                source = (row + block.ow * g.stride[1]) * g.in_cells
                self._copy(scratch, start, x, source, self.row_size)
        return scratch

    def _copy_row(self, scratch: Buffer, start: Value, x: Buffer, block: Block, i: Value) -> None:
        """A row with its border; columns are not split where there is padding."""
        g = self._g
        top, left, _, _ = g.padding
        taken = min(g.in_width, self._width - left)
        before, inner = left * g.in_cells, taken * g.in_cells
        zero = constant(0, scratch.dtype)
        ih = let(block.oh * g.stride[0] - top + i, "ih")
        with branch(within(0, ih, g.in_height)) as (inside, outside):
            with inside:
                fill_overlapping(scratch, start, zero, before)
                source = (block.image * g.in_height + ih) * (g.in_width * g.in_cells)
                self._copy(scratch, start + before, x, source, inner)
                fill_overlapping(scratch, start + (before + inner), zero, self.row_size - before - inner)
            with outside:
                fill_overlapping(scratch, start, zero, self.row_size)

    def _copy(self, scratch: Buffer, to: Index, x: Buffer, start: Value, count: int) -> None:
        for i, lanes in span(count, _LANES):
            scratch.store(to + i, self._product.converted(x.load(start + i, lanes)))
