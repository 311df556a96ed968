"""The frames of pooling, NHWC.

Maximum: cells outside the map are replaced by the nearest cell inside, which the window holds as well, so borders need
no branch. Average: exact sums of the cells inside, one multiplier per count of cells (bytes) or one division (floats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm_mpq.kernels.emit import (
    Function,
    Index,
    Register,
    Value,
    bind,
    let,
    loop,
    maximum,
    minimum,
    span,
    zeros,
)
from tvm_mpq.kernels.frames.elementwise import rows
from tvm_mpq.schema import Pool2dWorkload

_UNROLLED_CELLS = 16  # larger windows loop over their cells
_UINT16_CELLS = 257  # cells of 255 that a uint16 sum holds
_LANES = {"uint8": 64, "float32": 16}
_BYTE_EASE = 2  # bytes whose maximum takes as long as one addition

Mean = Callable[[Index, Index], Callable[[Value], Value]]
"""Once for each window, (what to divide by, cells inside the map) -> what makes the mean of a vector of sums."""


@dataclass(frozen=True)
class WindowAxis:
    """One spatial axis: windows of `kernel` cells every `stride` over `size` cells with padding on both sides."""

    size: int
    outs: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def is_inside(self) -> bool:
        """No window reaches past the map."""
        return self.before == 0 and (self.outs - 1) * self.stride + self.kernel <= self.size

    @property
    def has_empty_window(self) -> bool:
        """Some window lies outside the map as a whole."""
        last = (self.outs - 1) * self.stride - self.before
        return self.before >= self.kernel or last >= self.size

    def start(self, out: Value) -> Value:
        """First cell of a window, perhaps outside."""
        return out * self.stride - self.before

    def nearest(self, out: Value, tap: Index) -> Value:
        """The cell of a tap, moved into the map."""
        cell = self.start(out) + tap
        return cell if self.is_inside else maximum(minimum(cell, self.size - 1), 0)

    def valid(self, out: Value) -> tuple[Index, Index]:
        """First tap inside the map, and how many there are."""
        if self.is_inside:
            return 0, self.kernel
        first = maximum(0, 0 - self.start(out))
        return first, maximum(minimum(self.kernel, self.size - self.start(out)) - first, 0)

    def counted(self, out: Value) -> Index:
        """Cells that an average with counted padding divides by along this axis."""
        if self.is_inside:
            return self.kernel
        return maximum(minimum(self.kernel, self.size + self.after - self.start(out)), 0)


def window_axes(work: Pool2dWorkload) -> tuple[WindowAxis, WindowAxis]:
    """Height and width."""
    top, left, bottom, right = work.padding
    return (
        WindowAxis(work.in_height, work.out_height, work.kernel[0], work.stride[0], top, bottom),
        WindowAxis(work.in_width, work.out_width, work.kernel[1], work.stride[1], left, right),
    )


@dataclass(frozen=True)
class _Position:
    """One output position while its code is written: image, row, column, and number of all."""

    n: Value
    row: Value
    column: Value
    number: Value


class PoolFrame:
    """Loops over the positions and windows of one pooling; x and out have `channels` elements a position."""

    def __init__(self, work: Pool2dWorkload, threads: int, f: Function) -> None:
        self.work, self.threads = work, threads
        self.x, self.out = f.flat("x"), f.flat("out")
        self.channels = f.params[0].shape[-1]
        self.lanes = _LANES[self.x.dtype]
        self.height, self.width = window_axes(work)

    def write_maximum(self) -> None:
        """The greatest cell of each window."""
        kernel_h, kernel_w = self.work.kernel
        small = kernel_h * kernel_w <= _UNROLLED_CELLS
        with self._positions(ease=_BYTE_EASE if self.x.dtype == "uint8" else 1) as at:
            taps = [(i, j) for i in range(kernel_h) for j in range(kernel_w)] if small else []
            cells = [let(self._nearest_cell(at, i, j), "cell") for i, j in taps]
            for c, lanes in span(self.channels, self.lanes):
                if small:
                    best = _tree([self.x.load(cell + c, lanes) for cell in cells])
                else:
                    best = self._loop_maximum(at, c, lanes)
                self.out.store(at.number * self.channels + c, best)

    def write_average(self, mean: Mean) -> None:
        """The mean of each window, whose sums are exact for bytes."""
        work, (kernel_h, kernel_w) = self.work, self.work.kernel
        sums = "float32" if self.x.dtype == "float32" else "uint16" if kernel_h * kernel_w <= _UINT16_CELLS else "int32"
        with self._positions() as at:
            (first_row, rows_inside), (first_column, columns) = self.height.valid(at.row), self.width.valid(at.column)
            inside = bind(rows_inside * columns, "inside")
            counted = work.mode == "avg"
            row, column = self.height.start(at.row) + first_row, self.width.start(at.column) + first_column
            corner = let(self._cell(at, row, column), "corner")
            finish = mean(self.height.counted(at.row) * self.width.counted(at.column) if counted else inside, inside)
            for c, lanes in span(self.channels, self.lanes):
                total = Register(lanes, sums)
                total.value = zeros(lanes, sums)
                with self._window(corner, rows_inside, columns) as cell:
                    total.value = total.value + self.x.load(cell + c, lanes).cast(sums)
                self.out.store(at.number * self.channels + c, finish(total.value))

    def _loop_maximum(self, at: _Position, c: Value, lanes: int) -> Value:
        """The greatest cell of a window too large to be unrolled."""
        best = Register(lanes, self.x.dtype)
        best.value = self.x.load(self._nearest_cell(at, 0, 0) + c, lanes)
        with loop(self.work.kernel[0]) as i, loop(self.work.kernel[1]) as j:
            best.value = maximum(best.value, self.x.load(self._nearest_cell(at, i, j) + c, lanes))
        return best.value

    def _cell(self, at: _Position, row: Value, column: Value) -> Value:
        """Index of channel 0 of a cell."""
        return ((at.n * self.work.in_height + row) * self.work.in_width + column) * self.channels

    def _nearest_cell(self, at: _Position, i: Index, j: Index) -> Value:
        return self._cell(at, self.height.nearest(at.row, i), self.width.nearest(at.column, j))

    @contextmanager
    def _positions(self, *, ease: int = 1) -> Iterator[_Position]:
        """Every output position; ease as in `flat`."""
        height, width = self.work.out_height, self.work.out_width
        count = self.work.batch * height
        with rows(self.threads, count, count * width * self.channels // ease) as r:
            n, row = let(r // height, "n"), let(r % height, "row")
            with loop(width) as column:
                yield _Position(n, row, column, let(r * width + column, "position"))

    @contextmanager
    def _window(self, corner: Value, rows_inside: Index, columns: Index) -> Iterator[Value]:
        """Every cell of a window inside the map; one long loop where the cells lie in one piece."""
        width = self.work.in_width
        if isinstance(rows_inside, int) and isinstance(columns, int) and columns == width:
            with loop(rows_inside * columns) as k:
                yield let(corner + k * self.channels, "cell")
            return
        with loop(rows_inside) as i, loop(columns) as j:
            yield let(corner + (i * width + j) * self.channels, "cell")


def _tree(values: list[Value]) -> Value:
    """The maximum of all, by operations that depend on each other as little as possible."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return maximum(_tree(values[:half]), _tree(values[half:]))
