"""Knob spaces of the dense frame: tile shapes that fit the registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.geometry import BLOCK, Geometry, blocks, even_tile, tiles
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.schema import Conv2dWorkload

_TILES_512 = (
    *((14, 2), (12, 2), (9, 3), (6, 4), (5, 4), (4, 4), (8, 3), (7, 3), (7, 2), (8, 2), (4, 2), (2, 2), (2, 6), (4, 6)),
    *((14, 1), (8, 1), (1, 16), (1, 8)),
)
"""Columns x blocks of 16 channels."""
_SMALL_TILES = ((4, 1), (3, 1), (6, 1), (2, 2), (1, 4), (2, 1), (1, 1))
_CHOICES = 8


def _order(g: Geometry, out_blocks: int) -> str:
    """Weights that fit half the first-level cache stay there while positions pass by; else they pass once."""
    weight_bytes = out_blocks * BLOCK * g.kernel[0] * g.kernel[1] * g.in_cells
    return "positions" if weight_bytes <= 16384 and g.out_height * g.out_width > 16 else "channels"


def tiles_512(request: Request, dot: Dot) -> list[Knobs]:
    """Tiles for 32 vector registers, cheapest first."""
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    g = Geometry.of(w, request.out_bits)
    n = blocks(w.out_channels)
    found: dict[tuple[int, int, int], float] = {}
    for limit, deep in _TILES_512:
        depth, columns = even_tile(n, deep if w.groups == 1 else 1), even_tile(g.out_width, limit)
        if dot.registers(columns, depth) > 32:
            continue
        rows = 1
        if columns == g.out_width:
            rows = even_tile(g.out_height, max(1, 27 // (columns * depth)))
            if dot.registers(rows * columns, depth) > 32:
                rows = 1
        found[rows, columns, depth] = _cycles(g, n, rows, columns, depth)
    ranked = sorted(found, key=lambda tile: found[tile])[:_CHOICES]
    return [{"rows": r, "columns": c, "blocks": b, "order": _order(g, n)} for r, c, b in ranked]


def _cycles(g: Geometry, out_blocks: int, rows: int, columns: int, depth: int) -> float:
    """Estimated cycles of the map: products or loads, whichever is more, and the epilogues that cannot overlap."""
    steps = g.kernel[0] * g.kernel[1] * g.in_cells // 4
    count = tiles(g.out_height, rows) * tiles(g.out_width, columns) * tiles(out_blocks, depth)
    products, loads = rows * columns * depth, rows * columns + depth
    return count * (steps * (max(products, loads, 4) + 0.1 * loads) + 0.4 * max(0, 10 * products - 120))


def small_tiles(request: Request, dot: Dot) -> list[Knobs]:
    """Tiles for 16 vector registers of 8 lanes, or for machines that nobody measured."""
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    g = Geometry.of(w, request.out_bits)
    n = blocks(w.out_channels)
    out: list[Knobs] = []
    for limit, deep in _SMALL_TILES:
        columns, depth = even_tile(g.out_width, limit), even_tile(n, deep if w.groups == 1 else 1)
        knobs = {"rows": 1, "columns": columns, "blocks": depth, "order": _order(g, n)}
        fits = dot.registers(columns, depth * (BLOCK // dot.lanes)) <= 16 or dot.lanes == BLOCK
        if fits and knobs not in out:
            out.append(knobs)
    return out
