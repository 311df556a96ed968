"""Knob spaces for 32 registers of four int32: tiles that fit, the cheapest by estimate first."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import even_blocks, even_tile, tiles
from tvm_mpq.kernels.frames.machine import ConvolutionMachine, Dot
from tvm_mpq.kernels.knobs.choices import cheapest, distinct, position_tile
from tvm_mpq.kernels.knobs.dense import loop_order
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, Geometry, blocks, conv_of

_TILES = ((6, 1), (5, 1), (4, 1), (3, 1), (2, 1), (1, 1), (3, 2), (2, 2), (1, 4), (1, 3), (1, 2))
"""Positions x blocks of 16 channels."""
_MATRIX_TILES = ((1, 6), (2, 3), (3, 2), (1, 4), (2, 2), (1, 2), (2, 1), (1, 5), (1, 3))
"""Rows and columns; six positions and 16 channels make 24 accumulators."""
_REGISTERS = 32
_CHOICES = 4
_BUSY = 8  # products in flight that hide the latency of a multiply-add


def sdot_tiles(request: Request, dot: Dot) -> list[Knobs]:
    """Tiles of the dense frame, cheapest first; the first one in both loop orders."""
    w = conv_of(request)
    g = Geometry.of(w, request.out_bits)
    n = blocks(w.out_channels)
    found: dict[tuple[int, int, int], float] = {}
    for limit, deep in _TILES:
        (rows, columns), depth = position_tile(g, limit), even_tile(n, deep if w.groups == 1 else 1)
        if dot.registers(rows * columns, depth) <= _REGISTERS:
            found[rows, columns, depth] = _instructions(g, n, rows, columns, depth)
    first, second = _orders(g, n)
    out = [{"rows": r, "columns": c, "blocks": b, "order": first} for r, c, b in cheapest(found, _CHOICES)]
    return [out[0], {**out[0], "order": second}, *out[1:]]


def pairwise_tiles(request: Request, machine: ConvolutionMachine) -> list[Knobs]:
    """Two or three positions; their accumulators fill the registers."""
    w = conv_of(request)
    g = Geometry.of(w, request.out_bits)
    first, second = _orders(g, blocks(w.out_channels))
    found: list[Knobs] = []
    for limit, order in ((2, first), (3, first), (2, second), (1, first)):
        rows, columns = position_tile(g, limit)
        found.append({"rows": rows, "columns": columns, "blocks": 1, "order": order})
    return distinct(found)


def matrix_tiles(request: Request, machine: ConvolutionMachine) -> list[Knobs]:
    """Tiles of pairs of positions, the fewest products and loads first; odd numbers of positions waste half a pair."""
    w = conv_of(request)
    g, n = Geometry.of(w, request.out_bits), blocks(w.out_channels)
    found: dict[tuple[int, int], float] = {}
    for high, wide in _MATRIX_TILES:
        rows, columns = min(high, g.least_height), even_tile(g.out_width, wide)
        cost = 0.0
        for size, count in even_blocks(g.out_width, columns):
            pairs, loads = tiles(rows * size, 2), rows * size + BLOCK
            cost += count * (max(pairs * BLOCK, _BUSY) + 0.5 * loads)
        found[rows, columns] = tiles(g.out_height, rows) * cost
    first, second = _orders(g, n)
    out = [{"rows": r, "columns": c, "blocks": 1, "order": first} for r, c in cheapest(found, _CHOICES)]
    return [out[0], {**out[0], "order": second}, *out[1:]]


def depthwise_tiles(request: Request, machine: ConvolutionMachine) -> list[Knobs]:
    """Neighbouring positions share loads; more than a few spill."""
    w = conv_of(request)
    columns = (even_tile(w.out_width, limit) for limit in (4, 2, 7, 1))
    return distinct({"rows": 1, "columns": c, "blocks": 1, "order": "channels"} for c in columns)


def _instructions(g: Geometry, out_blocks: int, rows: int, columns: int, depth: int) -> float:
    """Estimated cost of the map: products, or the wait for them where they are few, and half of each load's."""
    count = tiles(g.out_height, rows) * tiles(g.out_width, columns) * tiles(out_blocks, depth)
    products, loads = rows * columns * depth * 4, 16 * depth + rows * columns
    return count * (4 * max(products, _BUSY) + 0.5 * loads)


def _orders(g: Geometry, out_blocks: int) -> tuple[str, str]:
    """The likely better order, and the other."""
    first = loop_order(g, out_blocks)
    return first, "positions" if first == "channels" else "channels"
