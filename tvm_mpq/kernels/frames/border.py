"""Input rows in a scratch with zero points around them, so that reduction loops never ask where they are.

They may be wider there than in the map.
"""

from __future__ import annotations

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Value,
    branch,
    copy,
    fill,
    let,
    loop,
    minimum,
    within,
)
from tvm_mpq.kernels.shapes.geometry import Geometry

_SIZES = (64, 32, 16, 8, 4)


def fill_border(
    g: Geometry, rows: int, share: tuple[Index, Index], n: Value, source: Buffer, target: Buffer, base: Index, z: Value
) -> None:
    """Copy what a share of the tiles of `rows` output rows reads of image `n`, zero points `z` around it.

    share: first and one past the last tile; source: uint8 map; target: the scratch, whose rows begin at `base`; z: of
    either's type.
    """
    z = let(z.cast(target.dtype), "z")
    top, left, _, right = g.padding
    row_bytes, wide = g.in_width * g.in_cells, g.row_width * g.in_cells
    with loop(*rows_read(g, rows, share)) as y:
        row = let(base + y * wide, "row")
        with branch(within(top, y, top + g.in_height)) as (inside, outside):
            with inside:
                fill(target, row, z, left * g.in_cells, _SIZES)
                start = let((n * g.in_height + y - top) * row_bytes, "source")
                copy(target, row + left * g.in_cells, source, start, row_bytes, _SIZES)
                fill(target, row + (left * g.in_cells + row_bytes), z, right * g.in_cells, _SIZES)
            with outside:
                fill(target, row, z, wide, _SIZES)


def rows_read(g: Geometry, rows: int, share: tuple[Index, Index]) -> tuple[Index, Index]:
    """First bordered row, and the one past the last, that a share of the tiles of `rows` output rows reads."""
    low, high = share
    first = at_most(low * rows, g.least_height - rows) * g.stride[0]
    last = at_most(high * rows - rows, g.out_height - rows) * g.stride[0] + g.reach(0, rows)
    if g.phases is None:
        return first, last
    earliest = g.phases[0].start(0) + g.padding[0]
    return first + earliest, at_most(last + earliest + g.phases[0].span, g.rows)


def at_most(value: Index, limit: int) -> Index:
    """min(value, limit), in Python where it can be."""
    return minimum(value, limit) if isinstance(value, Value) else min(value, limit)
