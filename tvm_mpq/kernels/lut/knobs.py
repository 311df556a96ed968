"""Knob space of the look-up convolution: tiles that fit the registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.lut.coding import TABLE_BYTES, coding_of, even_parts
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.schema import Conv2dWorkload

_TILES = ((7, 2), (4, 4), (8, 2), (4, 2), (5, 3), (6, 4), (7, 3), (7, 1), (4, 1), (2, 4), (2, 2), (1, 8), (1, 4))
"""Columns x blocks of 16 channels."""
_REGISTERS = 32
_NEARLY = 2  # registers over the limit at which the compiler still finds a good order of loads
_CHOICES = 4  # tiles offered, each in a few orders
_MOST_LOOKUPS = 8  # of one step, position and block: more would be code without end
_LEVEL_2 = 1 << 19  # bytes: half the second-level cache, as far as tables of a whole map may reach
_LEVEL_1 = 1 << 14  # bytes: half the first-level cache


def lut_knobs(request: Request) -> list[Knobs]:
    """Tiles that fit 32 vector registers, cheapest first, each with the two loop orders.

    `depth` is the number of tables that one step takes of every kernel column, `band` the output rows whose tables are
    held together.
    """
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    coding = coding_of(request)
    s, limit = LutShape.of(w, coding), coding.sums_limit(request.precision.activation_bits)
    found: dict[tuple[int, int, int], float] = {}
    for columns, blocks in _TILES:
        tile = even_tile(s.out_width, columns), even_tile(s.out_blocks, blocks)
        for depth in _depths(s):
            if _registers(s, *tile, depth, limit) <= _REGISTERS + _NEARLY:
                found[(*tile, depth)] = _cycles(s, *tile, depth, limit)
    ranked = sorted(found, key=lambda key: found[key])[:_CHOICES]
    out: list[Knobs] = []
    for columns, blocks, depth in ranked:
        for order in _orders(s):
            band = s.out_height if s.rows * s.row_bytes <= _LEVEL_2 else 1
            if s.kernel[0] == 1 and order == "positions":
                band = 1  # rows share no tables, so no more are held than one tile after the other needs
            out.append({"columns": columns, "blocks": blocks, "depth": depth, "band": band, "order": order})
    return out


def _depths(s: LutShape) -> list[int]:
    """Tables of a step; more than one where a kernel row has few columns."""
    return [d for d in range(1, min(4, s.tables) + 1) if d == 1 or d * s.kernel[1] <= _MOST_LOOKUPS]


def _orders(s: LutShape) -> tuple[str, str]:
    """Weights that fit the first-level cache stay there while positions pass by; else they pass once."""
    weights = s.out_blocks * s.kernel[0] * s.lookups * TABLE_BYTES
    return ("positions", "channels") if weights <= _LEVEL_1 * 2 else ("channels", "positions")


def _registers(s: LutShape, columns: int, blocks: int, depth: int, limit: int) -> int:
    """Accumulators, indices of one chain for all blocks, tables of one position, weights and one sum."""
    chain = max(stop - start for start, stop in even_parts(depth * s.kernel[1], limit))
    return columns * blocks + blocks * chain + chain + 2


def _cycles(s: LutShape, columns: int, blocks: int, depth: int, limit: int) -> float:
    """Estimated cycles of one image: look-ups and loads of the reduction, then the epilogue."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(s.out_blocks, blocks)
    chains = even_parts(depth * s.kernel[1], limit)
    lookups = columns * blocks * depth * s.kernel[1]
    loads = sum(_distinct(s, columns, stop - start) + blocks * (stop - start) for start, stop in chains)
    spills = 2 * max(0, _registers(s, columns, blocks, depth, limit) - _REGISTERS)
    # look-ups and vpdpbusd share one of the three units that do either
    busy = max(lookups * 1.1, (lookups + columns * blocks * len(chains)) * 2 / 3)
    # two accumulators' chains of 4 cycles each are the least that one step of a small tile takes
    step = max(busy, loads * 1.2, 4 * len(chains)) + spills + 1
    steps = s.kernel[0] * (s.tables / depth + (0.5 if s.tables % depth else 0))
    return count * (steps * step + 4 * columns * blocks + 15)


def _distinct(s: LutShape, columns: int, chain: int) -> int:
    """Tables that a chain of look-ups loads for all positions of a tile."""
    width = min(chain, s.kernel[1])
    shared = columns * s.stride[1] if s.stride[1] < width else columns * width
    return min(columns * chain, -(-chain // width) * (shared + width - 1))
