"""Knob space of the look-up convolution with nibbles: tiles that fit the registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.nibble_lut.build import part_count
from tvm_mpq.kernels.nibble_lut.coding import TABLE_BYTES, NibbleCoding, coding_of, sums_limit
from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.nibble_lut.shape import NibbleShape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.schema import Conv2dWorkload

_TILES = (
    *((7, 1), (8, 1), (6, 1), (5, 1), (4, 1), (3, 1), (7, 2), (6, 2), (5, 2), (4, 2), (3, 2), (2, 2), (2, 1)),
    *((5, 3), (4, 3), (2, 4), (1, 4), (1, 2), (1, 1)),
)
"""Columns x parts."""
_CHOICES = 4  # tiles offered, each in a few orders
_LEVEL_2 = 1 << 18  # bytes: a small second-level cache, as far as tables of a whole map may reach
_LEVEL_1 = 1 << 14  # bytes: half the first-level cache
_RATE = 3.1  # vector instructions a cycle, as measured; the four pipes of Zen 4 never all fill


def nibble_knobs(request: Request, machine: Machine) -> list[Knobs]:
    """Tiles that fit the vector registers, cheapest first, each with the two loop orders.

    `sums` is the number of looked-up bytes added at once, `band` the output rows whose tables are held together.
    """
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    s, coding, parts = NibbleShape.of_workload(w), coding_of(request), part_count(request)
    found: dict[tuple[int, int, int], float] = {}
    for limit, deep in _TILES:
        columns, depth = even_tile(s.out_width, limit), even_tile(parts, deep)
        for sums in range(2, sums_limit(request.precision.activation_bits) + 1, 2):
            counters = columns * depth * (2 // coding.beside)
            if counters + depth * sums + 3 <= machine.registers:
                found[columns, depth, sums] = _cycles(s, coding, parts, columns, depth, sums)
    ranked = sorted(found, key=lambda key: found[key])[:_CHOICES]
    out: list[Knobs] = []
    for columns, depth, sums in ranked:
        band = s.out_height if s.rows * s.table_row_bytes(2 * sums) <= _LEVEL_2 else 1
        orders = _orders(s, coding, parts, columns, depth, sums, band)
        out += [{"columns": columns, "parts": depth, "sums": sums, "band": band, "order": order} for order in orders]
    return out


def _orders(
    s: NibbleShape, coding: NibbleCoding, parts: int, columns: int, depth: int, sums: int, band: int
) -> tuple[str, str]:
    """First the order that reads fewer bytes from beyond the first-level cache: weights again for every tile, or tables
    again for every vector of channels. Weights that stay in the cache cost nothing."""
    weights = parts * s.kernel[0] * s.steps(2 * sums) * coding.planes * sums * TABLE_BYTES
    by_positions = 0 if weights <= _LEVEL_1 else s.out_height * tiles(s.out_width, columns) * weights
    rows = s.rows if band == s.out_height else s.out_height * s.kernel[0]
    by_channels = tiles(parts, depth) * rows * s.table_row_bytes(2 * sums)
    return ("positions", "channels") if by_positions <= by_channels else ("channels", "positions")


def _cycles(s: NibbleShape, coding: NibbleCoding, parts: int, columns: int, depth: int, sums: int) -> float:
    """Estimated cycles of one image: look-ups, additions and unpacking of the reduction, then the epilogue."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(parts, depth)
    counting = 4 - coding.beside  # instructions that take a sum into the counters
    work = columns * depth * (2 * sums - 1 + counting) + depth * sums * 1.5
    loads = (columns + depth) * sums
    step = max(work / _RATE, loads / 2, sums + 3)
    return count * (
        coding.planes * s.kernel[0] * s.steps(2 * sums) * step + 6 * columns * depth * (2 // coding.beside) + 15
    )
