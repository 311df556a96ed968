"""The loops of matrices that are transposed: squares of registers, so that both sides are read and written by vectors.

    target[n, c, r] = source[n, r, c]

Up to 7 rows or columns are interleaved or taken apart in registers, many positions at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm_mpq.kernels.emit import Index, Value, fit_lanes, let, loop, overlap, shuffle, tiles, zeros
from tvm_mpq.kernels.emit.lanes import transposed
from tvm_mpq.kernels.frames.elementwise import rows

Load = Callable[[Value, int], Value]
"""(start, lanes) -> vector."""

Store = Callable[[Value, Value], None]
"""(start, vector)."""

_FEW = 7
"""So many vectors that lie element by element between each other are shuffled at once."""

_LINE = 16
"""Floats of a line of memory. Planes often lie a power of two apart: a line that is left half done is soon lost."""


@dataclass(frozen=True)
class Transposition:
    """`batch` matrices of `rows` x `columns` elements.

    A row is `source_stride` elements behind the one before it in the source, a column `target_stride` elements in the
    target: more than there are columns or rows where channels are padded. Padding is not read, and written with what
    `store` makes of zeros.
    """

    batch: int
    rows: int
    columns: int
    source_stride: int
    target_stride: int

    @classmethod
    def of(cls, shape: Sequence[int], axes: Sequence[int]) -> Transposition | None:
        """What a permutation of a dense tensor's axes is, where it swaps two groups of neighbours, the last one in one.

        >>> Transposition.of((2, 48, 40, 32), (0, 3, 1, 2))
        Transposition(batch=2, rows=1920, columns=32, source_stride=32, target_stride=1920)
        >>> Transposition.of((2, 48, 40, 32), (0, 2, 1, 3)) is None
        True
        """
        order = [axis for axis in axes if shape[axis] != 1]
        ordered = sorted(order)
        moved = [i for i, pair in enumerate(zip(order, ordered, strict=True)) if pair[0] != pair[1]]
        if not moved:
            return None
        first = moved[0]
        second = ordered.index(order[first])
        groups = ordered[:first], ordered[first:second], ordered[second:]
        if order != [*groups[0], *groups[2], *groups[1]]:
            return None
        batch, rows, columns = (math.prod(shape[axis] for axis in group) for group in groups)
        return cls(batch, rows, columns, columns, rows)

    def write(self, threads: int, lanes: int, load: Load, store: Store) -> None:
        """Move all elements, as vectors of up to `lanes` float32, on several threads where it is worth while."""
        if not self._padded and self.source_stride <= _FEW and self.rows >= _LINE:
            self._take_apart(threads, load, store)
        elif not self._padded and self.rows <= _FEW and self.columns >= _LINE:
            self._interleave(threads, load, store)
        else:
            self._squares(threads, lanes, load, store)

    @property
    def _padded(self) -> bool:
        return self.target_stride > self.rows

    def _source(self, n: Value, row: Index, column: Index) -> Value:
        return (n * self.rows + row) * self.source_stride + column

    def _target(self, n: Value, row: Index, column: Index) -> Value:
        return (n * self.columns + column) * self.target_stride + row

    @contextmanager
    def _bands(self, threads: int, extent: int, breadth: int) -> Iterator[tuple[Value, Value]]:
        """All bands of `breadth` that cover an axis of each matrix, each a task: (matrix, start)."""
        bands = tiles(extent, breadth)
        with rows(threads, self.batch * bands, self.batch * self.rows * self.columns) as task:
            yield let(task // bands, "n"), let(overlap(task % bands, breadth, extent), "start")

    def _squares(self, threads: int, lanes: int, load: Load, store: Store) -> None:
        """A task is a band across the shorter axis, as broad as a line of memory where there are so many elements.

        The last band overlaps the one before it; at the end of a band no more is stored than is left.
        """
        side = fit_lanes(min(self.columns, self.target_stride), lanes)
        down = self._padded or self.rows <= self.columns  # bands go from row to row
        across, along = (self.rows, self.columns) if down else (self.columns, self.rows)
        breadth = min(_LINE, along) // side * side
        with self._bands(threads, along, breadth) as (n, start):

            def squares(first: Index, *, taken: int = side, left: int = side) -> None:
                """One square beside the other; rows after `taken` are zeros, only the last `left` columns are new."""
                places = [(first, start + i) if down else (start + i, first) for i in range(0, breadth, side)]
                turned = []
                for row, column in places:
                    held = [let(load(self._source(n, row + i, column), side)) for i in range(taken)]
                    turned.append(transposed(held + [zeros(side, "float32")] * (side - taken)))
                for i in range(side - left, side):
                    for (row, column), square in zip(places, turned, strict=True):
                        store(self._target(n, row, column + i), square[i])

            with loop(across // side) as tile:
                squares(let(tile * side, "first"))
            if self._padded:
                for row in range(across // side * side, self.target_stride, side):
                    squares(row, taken=min(side, max(0, across - row)))
            elif across % side:
                squares(across - side, left=side if down else across % side)

    def _take_apart(self, threads: int, load: Load, store: Store) -> None:
        """Few columns: the vectors that hold some rows are each column's elements in turn."""
        with self._bands(threads, self.rows, _LINE) as (n, row):
            start = self._source(n, row, 0)
            mixed = [let(load(start + i * _LINE, _LINE)) for i in range(self.source_stride)]
            for column in range(self.columns):
                order = range(column, self.source_stride * _LINE, self.source_stride)
                store(self._target(n, row, column), shuffle(mixed, order))

    def _interleave(self, threads: int, load: Load, store: Store) -> None:
        """Few rows: of each a vector, and all their elements in turn."""
        with self._bands(threads, self.columns, _LINE) as (n, column):
            vectors = [let(load(self._source(n, row, column), _LINE)) for row in range(self.rows)]
            start = self._target(n, 0, column)
            for part in range(self.rows):
                cells = range(part * _LINE, (part + 1) * _LINE)
                order = [cell % self.rows * _LINE + cell // self.rows for cell in cells]
                store(start + part * _LINE, shuffle(vectors, order))
