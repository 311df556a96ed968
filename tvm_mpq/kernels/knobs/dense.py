"""Knob spaces of the dense frame: tile shapes that fit the registers, ordered by estimated cycles."""

from __future__ import annotations

import math

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.knobs.choices import cheapest, distinct
from tvm_mpq.kernels.packing.ranges import bounded
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import (
    BLOCK,
    ChannelTiles,
    ChannelWindow,
    Geometry,
    blocks,
    conv_of,
    has_half,
    tile_channels,
)

_COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28)
_DEPTHS = (1, 2, 3, 4, 5, 6, 8, 16)
"""Blocks of 16 channels."""
_SMALL_TILES = ((4, 1), (3, 1), (6, 1), (2, 2), (1, 4), (2, 1), (1, 1))
_CHOICES = 8
_UNROLLED = 10
"""Steps up to which a reduction is a matter of one tile of straight code."""


def loop_order(g: Geometry, out_blocks: int, steps: int = _UNROLLED + 1) -> str:
    """The outer loop: `positions` or `channels`.

    Over positions where all weights fit half the first-level cache: they stay there, and activations are read once.
    Otherwise over channels: weights are read once, and those of short sums (few `steps`) even stay in registers.
    """
    if g.kernel == (1, 1) and steps <= _UNROLLED:
        return "channels"
    weight_bytes = out_blocks * BLOCK * g.kernel[0] * g.kernel[1] * g.in_cells
    return "positions" if weight_bytes <= 16384 and g.out_height * g.out_width > 16 else "channels"


def tiles_512(request: Request, dot: Dot) -> list[Knobs]:
    """Tiles for 32 vector registers, cheapest first."""
    w = conv_of(request)
    g = Geometry.of(w, request.out_bits)
    n, half = blocks(w.out_channels), has_half(request, dot.halves)
    steps = g.kernel[0] * g.kernel[1] * ChannelWindow.of(w, dot.channels).cells // dot.channels
    found: dict[tuple[int, int, int], float] = {}
    for limit in _COLUMNS:
        for depth in _DEPTHS if w.groups == 1 else (1,):
            depth, columns = min(n, depth), even_tile(g.out_width, limit)
            parts = tile_channels(n, depth, half)
            widest = max(part.blocks for part in parts)
            if dot.registers(columns, widest) > 32:
                continue
            rows = 1
            if columns == g.out_width:
                rows = even_tile(g.out_height, max(1, 28 // (columns * widest)))
                if dot.registers(rows * columns, widest) > 32:
                    rows = 1
            found[rows, columns, depth] = _cycles(request, g, steps, parts, rows, columns)
    return [
        {"rows": r, "columns": c, "blocks": b, "order": loop_order(g, n, steps)}
        for r, c, b in cheapest(found, _CHOICES)
    ]


def _cycles(request: Request, g: Geometry, steps: int, parts: list[ChannelTiles], rows: int, columns: int) -> float:
    """Estimated cycles of the map, a sum of `steps` products each.

    A step takes a cycle for each product or vector of weights, half a cycle for four broadcast bytes; an accumulator
    waits 4 cycles for its next product. Accumulators end in fours: one or two cycles of the products' ports and about
    three of all for each. Few steps are unrolled, and small tiles of them overlap; after a loop of many the processor
    has to begin anew. Half and whole vectors in one tile were measured to hinder each other.
    """
    w = conv_of(request)
    own = 1 if bounded(w, request.precision.weight_bits) and not w.residual else 2
    cycles = 0.0
    for part in parts:
        accs = rows * columns * (part.blocks - 0.5 * part.half)
        loads = 0.5 * rows * columns + part.blocks - 0.5 * part.half
        ends = 4 * math.ceil(accs / 4)
        work = max(steps * max(accs, loads, 4) + own * ends, (steps * accs + 6 * ends) / 2)
        if part.half and part.blocks > 1:
            work *= 1.06
        if steps <= _UNROLLED:
            lost = 4 + 1.5 * max(0.0, accs - 8) + 4 * max(0.0, accs - 16) + (part.blocks % 2) * 0.5 * accs
        else:
            lost = 30 + accs
        cycles += part.count * (work + 0.1 * steps * loads + lost)
    return cycles * tiles(g.out_height, rows) * tiles(g.out_width, columns)


def small_tiles(request: Request, _dot: Dot) -> list[Knobs]:
    """Tiles for machines that nobody measured."""
    w = conv_of(request)
    g = Geometry.of(w, request.out_bits)
    n = blocks(w.out_channels)
    tiles_of = (
        (even_tile(g.out_width, limit), even_tile(n, deep if w.groups == 1 else 1)) for limit, deep in _SMALL_TILES
    )
    order = loop_order(g, n)
    return distinct({"rows": 1, "columns": c, "blocks": b, "order": order} for c, b in tiles_of)
