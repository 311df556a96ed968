"""Knob space of the look-up convolution: tiles that fit the registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.conv.geometry import even_tile, tiles
from tvm_mpq.kernels.lut.shape import LutShape, sums_limit
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.schema import Conv2dWorkload

_TILES = ((7, 2), (4, 4), (8, 2), (4, 2), (5, 3), (6, 4), (7, 3), (7, 1), (4, 1), (2, 4), (2, 2), (1, 8), (1, 4))
"""Columns x blocks of 16 channels."""
_REGISTERS = 32
_NEARLY = 2  # registers over the limit at which the compiler still finds a good order of loads
_CHOICES = 4  # tiles offered, each in a few orders
_LEVEL_2 = 1 << 19  # bytes: half the second-level cache, as far as tables of a whole map may reach
_LEVEL_1 = 1 << 14  # bytes: half the first-level cache


def lut_knobs(request: Request) -> list[Knobs]:
    """Tiles that fit 32 vector registers, cheapest first, each with the two loop orders.

    `sums` is the number of looked-up bytes added at once, `band` the output rows whose tables are held together.
    """
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    s = LutShape.of(w)
    limit = sums_limit(request.precision.activation_bits)
    found: dict[tuple[int, int, int], float] = {}
    for columns, blocks in _TILES:
        tile = even_tile(s.out_width, columns), even_tile(s.out_blocks, blocks)
        for sums in range(min(2, limit), limit + 1):
            if _registers(*tile, sums) <= _REGISTERS + _NEARLY:
                found[(*tile, sums)] = _cycles(s, *tile, sums)
    ranked = sorted(found, key=lambda key: found[key])[:_CHOICES]
    out: list[Knobs] = []
    for columns, blocks, sums in ranked:
        for order in _orders(s, sums):
            band = s.out_height if s.rows * s.row_bytes(sums) <= _LEVEL_2 else 1
            out.append({"columns": columns, "blocks": blocks, "sums": sums, "band": band, "order": order})
    return out


def _orders(s: LutShape, sums: int) -> tuple[str, str]:
    """Weights that fit the first-level cache stay there while positions pass by; else they pass once."""
    weights = s.out_blocks * s.kernel[0] * s.steps(sums) * sums * 64
    return ("positions", "channels") if weights <= _LEVEL_1 * 2 else ("channels", "positions")


def _registers(columns: int, blocks: int, sums: int) -> int:
    """Accumulators, indices of all blocks, tables of one position, multipliers and one sum."""
    return columns * blocks + blocks * sums + sums + 2


def _cycles(s: LutShape, columns: int, blocks: int, sums: int) -> float:
    """Estimated cycles of one image: look-ups and loads of the reduction, then the epilogue."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(s.out_blocks, blocks)
    steps = s.kernel[0] * s.steps(sums)
    lookups, loads = columns * blocks * sums, (columns + blocks) * sums
    adds = 0.36 if sums > 2 else 0.4
    spills = 2 * max(0, _registers(columns, blocks, sums) - _REGISTERS)
    # two accumulators' chains of 4 cycles each are the least that one step of a small tile takes
    step = max(lookups * (1 + adds), loads * 1.2, 4) + spills
    return count * (steps * step + 4 * columns * blocks + 15)
