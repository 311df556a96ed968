"""Phases of a convolution over a dilated input, as loops and tiles see them. Without dilation there is but one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm_mpq.kernels.emit import Index, Value, bind, let, loop
from tvm_mpq.kernels.shapes.geometry import Geometry, PhaseAxis


@dataclass(frozen=True)
class Phase:
    """What the code of a tile must know of the phase that it computes.

    row, column: where its input begins in the bordered rows; height, width: its outputs; out_*: extents of the whole
    output, and of its rows and columns every `step`-th from `offset` on belongs to this phase.
    """

    number: Index
    row: Index
    column: Index
    height: Index
    width: Index
    out_extents: tuple[int, int]
    step: tuple[int, int] = (1, 1)
    offset: tuple[Index, Index] = (0, 0)

    @classmethod
    def only(cls, g: Geometry) -> Phase:
        """The one phase of a convolution without input dilation."""
        return cls(0, 0, 0, g.out_height, g.out_width, (g.out_height, g.out_width))

    @classmethod
    def numbered(cls, g: Geometry, axes: tuple[PhaseAxis, PhaseAxis], number: Value) -> Phase:
        """Phase number a * (factor of the columns) + b: phase a of the rows, b of the columns."""
        rows, columns = axes
        a, b = let(number // columns.factor, "phase_row"), let(number % columns.factor, "phase_column")
        top, left = g.padding[0], g.padding[1]
        return cls(
            number,
            bind(rows.start(a) + top, "first_row"),
            bind(columns.start(b) + left, "first_column"),
            bind(rows.outputs(a), "height"),
            bind(columns.outputs(b), "width"),
            (rows.extent, columns.extent),
            (rows.factor, columns.factor),
            (a, b),
        )

    def position(self, n: Value, row: Value, column: Value) -> Value:
        """Index of an output position of this phase in the whole output."""
        (height, width), (down, across) = self.out_extents, self.step
        return (n * height + row * down + self.offset[0]) * width + column * across + self.offset[1]

    def shift(self, rows: int, columns: int) -> int:
        """Positions of the whole output between outputs of this phase so many rows and columns apart."""
        return rows * self.step[0] * self.out_extents[1] + columns * self.step[1]


@contextmanager
def each_phase(g: Geometry) -> Iterator[Phase]:
    """The code of one phase, for each of them in turn."""
    if g.phases is None:
        yield Phase.only(g)
        return
    with loop(g.phase_count) as number:
        yield Phase.numbered(g, g.phases, number)
