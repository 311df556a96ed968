"""Knob spaces of convolutions by look-up: tiles that fit the registers, ordered by estimated cycles.

`columns` and `blocks` (or `parts`, vectors of output channels) are the extents of a tile; `band` is the number of
output rows whose tables or packed rows are held together; `order` is the outer loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.knobs.choices import cheapest
from tvm_mpq.kernels.machines.nibbles import NibbleMachine
from tvm_mpq.kernels.packing import nibble_indices, table_indices
from tvm_mpq.kernels.packing.bit_words import WORD_BYTES, BitShape
from tvm_mpq.kernels.packing.nibble_indices import NibbleCoding, NibbleShape, nibble_coding, part_count, sums_limit
from tvm_mpq.kernels.packing.table_indices import TableShape, even_parts, table_coding
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks, conv_of
from tvm_mpq.kernels.shapes.lookup import LookupShape

_CHOICES = 4  # tiles offered, each in the orders
_LEVEL_1 = 1 << 14  # bytes: half the first-level cache
_LEVEL_2 = 1 << 19  # bytes: half the second-level cache, as far as rows of a whole map may reach
_SMALL_LEVEL_2 = 1 << 18  # bytes: the same of a small core
_REGISTERS_512 = 32
_NEARLY = 2  # registers over the limit at which the compiler still finds a good order of loads
_MOST_LOOKUPS = 8  # of one step, position and block: more would be code without end
_RATE_256 = 3.1  # vector instructions a cycle, as measured; the four pipes of Zen 4 never all fill

_TABLE_TILES = ((7, 2), (4, 4), (8, 2), (4, 2), (5, 3), (6, 4), (7, 3), (7, 1), (4, 1), (2, 4), (2, 2), (1, 8), (1, 4))
"""Columns x blocks of 16 channels."""
_NIBBLE_TILES = (
    *((7, 1), (8, 1), (6, 1), (5, 1), (4, 1), (3, 1), (7, 2), (6, 2), (5, 2), (4, 2), (3, 2), (2, 2), (2, 1)),
    *((5, 3), (4, 3), (2, 4), (1, 4), (1, 2), (1, 1)),
)
"""Columns x parts."""
_BIT_TILES = (
    *((14, 2), (10, 2), (8, 2), (7, 2), (5, 2), (4, 2), (2, 2), (8, 3), (7, 3), (5, 3), (6, 4), (5, 4), (4, 4)),
    *((3, 4), (2, 4), (1, 4), (2, 8), (1, 8), (24, 1), (14, 1), (8, 1), (1, 1)),
)
"""Columns x blocks of 16 channels."""


def _band(s: LookupShape, row_bytes: int, cache: int = _LEVEL_2) -> int:
    """All output rows where the prepared rows of the whole map fit the cache, else one."""
    return s.out_height if s.rows * row_bytes <= cache else 1


def table_knobs(request: Request) -> list[Knobs]:
    """For tables of 64 bytes; `depth` is the number of tables that one step takes of every kernel column."""
    w, coding = conv_of(request), table_coding(request)
    s, limit = TableShape.of(w, coding), coding.sums_limit(request.precision.activation_bits)
    all_blocks = blocks(w.out_channels)
    found: dict[tuple[int, int, int], float] = {}
    for columns, deep in _TABLE_TILES:
        tile = even_tile(s.out_width, columns), even_tile(all_blocks, deep)
        for depth in _depths(s):
            if _table_registers(s, *tile, depth, limit) <= _REGISTERS_512 + _NEARLY:
                found[(*tile, depth)] = _table_cycles(s, all_blocks, *tile, depth, limit)
    weights = all_blocks * s.kernel[0] * s.lookups * table_indices.TABLE_BYTES
    # weights that fit the first-level cache stay there while positions pass by; else they pass once
    orders = ("positions", "channels") if weights <= _LEVEL_1 * 2 else ("channels", "positions")
    out: list[Knobs] = []
    for columns, deep, depth in cheapest(found, _CHOICES):
        for order in orders:
            band = _band(s, s.row_bytes)
            if s.kernel[0] == 1 and order == "positions":
                band = 1  # rows share no tables, so no more are held than one tile after the other needs
            out.append({"columns": columns, "blocks": deep, "depth": depth, "band": band, "order": order})
    return out


def _depths(s: TableShape) -> list[int]:
    """Tables of a step; more than one where a kernel row has few columns."""
    return [d for d in range(1, min(4, s.tables) + 1) if d == 1 or d * s.kernel[1] <= _MOST_LOOKUPS]


def _table_registers(s: TableShape, columns: int, deep: int, depth: int, limit: int) -> int:
    """Accumulators, indices of one chain for all blocks, tables of one position, weights and one sum."""
    chain = max(stop - start for start, stop in even_parts(depth * s.kernel[1], limit))
    return columns * deep + deep * chain + chain + 2


def _table_cycles(s: TableShape, all_blocks: int, columns: int, deep: int, depth: int, limit: int) -> float:
    """Estimated cycles of one image: look-ups and loads of the reduction, then the end of each tile."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(all_blocks, deep)
    chains = even_parts(depth * s.kernel[1], limit)
    lookups = columns * deep * depth * s.kernel[1]
    loads = sum(_distinct(s, columns, stop - start) + deep * (stop - start) for start, stop in chains)
    spills = 2 * max(0, _table_registers(s, columns, deep, depth, limit) - _REGISTERS_512)
    # look-ups and vpdpbusd share one of the three units that do either
    busy = max(lookups * 1.1, (lookups + columns * deep * len(chains)) * 2 / 3)
    # two accumulators' chains of 4 cycles each are the least that one step of a small tile takes
    step = max(busy, loads * 1.2, 4 * len(chains)) + spills + 1
    steps = s.kernel[0] * (s.tables / depth + (0.5 if s.tables % depth else 0))
    return count * (steps * step + 4 * columns * deep + 15)


def _distinct(s: TableShape, columns: int, chain: int) -> int:
    """Tables that a chain of look-ups loads for all positions of a tile."""
    width = min(chain, s.kernel[1])
    shared = columns * s.stride[1] if s.stride[1] < width else columns * width
    return min(columns * chain, tiles(chain, width) * (shared + width - 1))


def nibble_knobs(request: Request, machine: NibbleMachine) -> list[Knobs]:
    """For tables of 16 entries; `sums` is the number of looked-up bytes added at once."""
    s, coding, all_parts = NibbleShape.of(conv_of(request)), nibble_coding(request), part_count(request)
    found: dict[tuple[int, int, int], float] = {}
    for limit, deep in _NIBBLE_TILES:
        columns, parts = even_tile(s.out_width, limit), even_tile(all_parts, deep)
        for sums in range(2, sums_limit(request.precision.activation_bits) + 1, 2):
            counters = columns * parts * (2 // coding.beside)
            if counters + parts * sums + 3 <= machine.registers:
                found[columns, parts, sums] = _nibble_cycles(s, coding, all_parts, columns, parts, sums)
    out: list[Knobs] = []
    for columns, parts, sums in cheapest(found, _CHOICES):
        band = _band(s, s.table_row_bytes(2 * sums), _SMALL_LEVEL_2)
        orders = _nibble_orders(s, coding, all_parts, columns, parts, sums, band)
        out += [{"columns": columns, "parts": parts, "sums": sums, "band": band, "order": order} for order in orders]
    return out


def _nibble_orders(
    s: NibbleShape, coding: NibbleCoding, all_parts: int, columns: int, parts: int, sums: int, band: int
) -> Sequence[str]:
    """First the order that reads fewer bytes from beyond the first-level cache: weights again for every tile, or tables
    again for every vector of channels. Weights that stay in the cache cost nothing."""
    weights = all_parts * s.kernel[0] * s.steps(2 * sums) * coding.planes * sums * nibble_indices.TABLE_BYTES
    by_positions = 0 if weights <= _LEVEL_1 else s.out_height * tiles(s.out_width, columns) * weights
    rows = s.rows if band == s.out_height else s.out_height * s.kernel[0]
    by_channels = tiles(all_parts, parts) * rows * s.table_row_bytes(2 * sums)
    return ("positions", "channels") if by_positions <= by_channels else ("channels", "positions")


def _nibble_cycles(s: NibbleShape, coding: NibbleCoding, all_parts: int, columns: int, parts: int, sums: int) -> float:
    """Estimated cycles of one image: look-ups, additions and unpacking of the reduction, then the end of each tile."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(all_parts, parts)
    counting = 4 - coding.beside  # instructions that take a sum into the counters
    work = columns * parts * (2 * sums - 1 + counting) + parts * sums * 1.5
    loads = (columns + parts) * sums
    step = max(work / _RATE_256, loads / 2, sums + 3)
    steps = coding.planes * s.kernel[0] * s.steps(2 * sums)
    return count * (steps * step + 6 * columns * parts * (2 // coding.beside) + 15)


def bit_knobs(request: Request) -> list[Knobs]:
    """For packed bits."""
    w, planes = conv_of(request), request.precision.activation_bits
    s, all_blocks = BitShape.of(w), blocks(w.out_channels)
    found: dict[tuple[int, int], float] = {}
    for limit, most in _BIT_TILES:
        columns, deep = even_tile(s.out_width, limit), even_tile(all_blocks, most)
        if columns * deep * planes + deep + planes + 1 <= _REGISTERS_512:
            found[columns, deep] = _bit_cycles(s, all_blocks, planes, columns, deep)
    band = _band(s, s.plane_bytes * planes)
    out: list[Knobs] = []
    for columns, deep in cheapest(found, _CHOICES):
        orders = _bit_orders(s, all_blocks, planes, columns, deep)
        out += [{"columns": columns, "blocks": deep, "band": band, "order": order} for order in orders]
    return out


def _bit_orders(s: BitShape, all_blocks: int, planes: int, columns: int, deep: int) -> Sequence[str]:
    """First the order that reads fewer bytes from beyond the first-level cache: weights again for every tile of
    positions, or the map again for every tile of channels."""
    positions, channels = s.out_height * tiles(s.out_width, columns), tiles(all_blocks, deep)
    if positions == 1 or channels == 1:
        return ("channels",)
    weights = all_blocks * BLOCK * s.kernel[0] * s.words * WORD_BYTES
    packed = s.rows * s.plane_bytes * planes
    by_positions = 0 if weights <= _LEVEL_1 else positions * weights
    by_channels = 0 if packed <= _LEVEL_1 else channels * packed * s.kernel[0]
    return ("positions", "channels") if by_positions < by_channels else ("channels", "positions")


def _bit_cycles(s: BitShape, all_blocks: int, planes: int, columns: int, deep: int) -> float:
    """Estimated cycles of one image, as measured on Zen 4: three instructions a word and lane, two of them a cycle."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(all_blocks, deep)
    words = columns * deep * planes
    step = max(1.5 * words, 4) + 0.1 * (columns * planes + deep)
    return count * (s.kernel[0] * s.words * step + 6.5 * columns * deep + 12)
