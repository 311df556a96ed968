"""How many output positions one task of a float convolution takes: as many as its inputs allow to stay near."""

from __future__ import annotations

from tvm_mpq.kernels.emit import tiles
from tvm_mpq.kernels.shapes.geometry import Geometry

_INPUT_BLOCK_BYTES = 192 * 1024
"""Input that one task walks over again for each tile of output channels: it should stay in a second-level cache."""

_STAGED_BLOCK_BYTES = 300 * 1024
"""The same where it is copied: smaller blocks copy more rows twice, and read all weights again."""

_BLOCK_ROWS = 0.25
"""What a block costs beside its rows, in rows: measured blocks of 14 of 56 rows are faster than of 8."""


def row_block(g: Geometry, rows: int, tasks: int) -> int:
    """Output rows of one task: few enough for the cache and for `tasks` tasks, and such that blocks hardly overlap."""
    limit = g.out_height if tasks <= 1 else max(rows, tiles(g.out_height, tasks))
    row_bytes = (g.reach(1, g.out_width) if g.bordered else g.in_width) * g.in_cells * 4
    while limit > rows and g.reach(0, limit) * row_bytes > _STAGED_BLOCK_BYTES:
        limit -= 1
    return _even_block(g.out_height, rows, limit)


def column_block(g: Geometry, columns: int, tasks: int) -> int:
    """The same for a convolution that is one row of positions, read in place."""
    limit = max(columns, _INPUT_BLOCK_BYTES // (g.in_cells * 4 * g.stride[1]))
    if tasks > 1:
        limit = min(limit, max(columns, tiles(g.out_width, tasks)))
    return _even_block(g.out_width, columns, limit)


def _even_block(extent: int, tile: int, limit: int) -> int:
    """The block of about `limit` that costs least: the last one is moved back, and computes again what it overlaps."""
    sizes = [min(extent, tiles(size, tile) * tile) for size in range(1, limit + 1)]
    return min(sizes, key=lambda size: tiles(extent, size) * (size + _BLOCK_ROWS))
