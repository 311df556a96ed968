"""Knob space of the bit-serial convolution: tiles that fit the registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.bit_serial.shape import WORD_BYTES, BitShape
from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.families.accept import workload_of
from tvm_mpq.kernels.frames.geometry import BLOCK
from tvm_mpq.kernels.registry import Knobs, Request

_TILES = (
    *((14, 2), (10, 2), (8, 2), (7, 2), (5, 2), (4, 2), (2, 2), (8, 3), (7, 3), (5, 3), (6, 4), (5, 4), (4, 4)),
    *((3, 4), (2, 4), (1, 4), (2, 8), (1, 8), (24, 1), (14, 1), (8, 1), (1, 1)),
)
"""Columns x blocks of 16 channels."""
_REGISTERS = 32
_CHOICES = 4  # tiles offered, each in the two orders
_LEVEL_1 = 1 << 14  # bytes: half the first-level cache
_LEVEL_2 = 1 << 19  # bytes: half the second-level cache, as far as packed rows of a whole map may reach


def bit_knobs(request: Request) -> list[Knobs]:
    """Tiles that fit 32 vector registers, cheapest first, each with the two loop orders.

    `band` is the number of output rows whose packed activations are held together.
    """
    s, planes = BitShape.of_workload(workload_of(request)), request.precision.activation_bits
    found: dict[tuple[int, int], float] = {}
    for limit, deep in _TILES:
        columns, blocks = even_tile(s.out_width, limit), even_tile(s.out_blocks, deep)
        if columns * blocks * planes + blocks + planes + 1 <= _REGISTERS:
            found[columns, blocks] = _cycles(s, planes, columns, blocks)
    band = s.out_height if s.rows * s.unit_row_bytes * planes <= _LEVEL_2 else 1
    out: list[Knobs] = []
    for columns, blocks in sorted(found, key=lambda tile: found[tile])[:_CHOICES]:
        orders = _orders(s, planes, columns, blocks)
        out += [{"columns": columns, "blocks": blocks, "band": band, "order": order} for order in orders]
    return out


def _orders(s: BitShape, planes: int, columns: int, blocks: int) -> tuple[str, ...]:
    """First the order that reads fewer bytes from beyond the first-level cache: weights again for every tile of
    positions, or the map again for every tile of channels."""
    positions, channels = s.out_height * tiles(s.out_width, columns), tiles(s.out_blocks, blocks)
    if positions == 1 or channels == 1:
        return ("channels",)
    weights = s.out_blocks * BLOCK * s.kernel[0] * s.words * WORD_BYTES
    packed = s.rows * s.unit_row_bytes * planes
    by_positions = 0 if weights <= _LEVEL_1 else positions * weights
    by_channels = 0 if packed <= _LEVEL_1 else channels * packed * s.kernel[0]
    return ("positions", "channels") if by_positions < by_channels else ("channels", "positions")


def _cycles(s: BitShape, planes: int, columns: int, blocks: int) -> float:
    """Estimated cycles of one image, as measured on Zen 4: three instructions a word and lane, two of them a cycle."""
    count = s.out_height * tiles(s.out_width, columns) * tiles(s.out_blocks, blocks)
    words = columns * blocks * planes
    step = max(1.5 * words, 4) + 0.1 * (columns * planes + blocks)
    return count * (s.kernel[0] * s.words * step + 6.5 * columns * blocks + 12)
