"""The loops of one register tile of a convolution over kernel rows, kernel columns and input channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tvm_mpq.kernels.emit import Index, Value, bind, loop
from tvm_mpq.kernels.shapes.geometry import Geometry


@dataclass(frozen=True)
class Place:
    """Where one step of a reduction stands: its number, and the elements at which inputs and weights begin."""

    step: Index
    x: Index
    weights: Index


@dataclass(frozen=True)
class Reduction:
    """rows x columns x steps products, whose weights are one stream of `step_size` elements each.

    columns: 1 where the inputs of a kernel row lie behind one another, so that one loop goes over all of them.
    row_stride, column_stride: input elements from one kernel row or column to the next; width: of one step.
    """

    rows: int
    columns: int
    steps: int
    row_stride: int
    column_stride: int
    width: int
    step_size: int

    @classmethod
    def of(cls, g: Geometry, merged: bool, steps: int, row_size: int, width: int, step_size: int) -> Reduction:
        """Over the kernel of `g`, whose input rows have `row_size` elements; `steps` are those of the inner loop."""
        row_stride, column_stride = g.dilation[0] * row_size, g.dilation[1] * g.in_cells
        return cls(g.kernel[0], 1 if merged else g.kernel[1], steps, row_stride, column_stride, width, step_size)

    @contextmanager
    def loops(self, x: Index, weights: Index) -> Iterator[Place]:
        """One step's code, for inputs and weights of the first step at `x` and `weights`."""
        with ExitStack() as stack:
            first: Index = 0
            if self.rows > 1:
                ky = stack.enter_context(loop(self.rows))
                x, weights = x + ky * self.row_stride, weights + ky * (self.columns * self.steps * self.step_size)
                first = ky * (self.columns * self.steps)
            if self.columns > 1:
                kx = stack.enter_context(loop(self.columns))
                x, weights = x + kx * self.column_stride, weights + kx * (self.steps * self.step_size)
                first = first + kx * self.steps
            x, weights = bind(x, "x_row"), bind(weights, "w_row")
            k: Value = stack.enter_context(loop(self.steps))
            yield Place(first + k, x + k * self.width, weights + k * self.step_size)
