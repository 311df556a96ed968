"""Knob space of the dense frame with 16 registers of 256 bits: tiles that fit, ordered by estimated cycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_mpq.kernels.emit.tiles import even_blocks, even_tile, tiles
from tvm_mpq.kernels.frames.machine import ConvolutionMachine, Dot
from tvm_mpq.kernels.knobs.choices import cheapest, distinct, position_tile
from tvm_mpq.kernels.knobs.dense import loop_order
from tvm_mpq.kernels.machines.avx2 import Bytes, HalfBlocks
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import ChannelWindow, Geometry, blocks, conv_of, tile_channels
from tvm_mpq.schema import Conv2dWorkload

_COLUMNS = (1, 2, 3, 4, 5, 6, 7)
_DEPTHS = (1, 2, 3)
"""Blocks of 16 channels."""
_DEPTHWISE_COLUMNS = (14, 7, 4)
_REGISTERS = 16
_CHOICES = 6
_LEVEL_1 = 24_576  # bytes of weights that stay in the first-level cache beside the activations
_RATE = 3.0  # vector instructions a cycle, as measured on Zen 4: additions also take the pipes that multiply
_STREAM = 30.0  # bytes a cycle from the second-level cache, as measured there
_END = 4.0  # cycles that the end of an accumulator takes
_LOADS = 1.85  # vectors read a cycle from the first-level cache, as measured on Zen 3
_READ = 0.011  # cycles that a byte of weights from the second-level cache adds to deferred sums, Zen 3
_LEVEL_1_SPILL = 49_152  # bytes of weights beyond `_LEVEL_1` from which all of them come from the second level


def tiles_256(request: Request, dot: Dot) -> list[Knobs]:
    """Tiles for AVX2, cheapest first."""
    assert isinstance(dot, HalfBlocks)
    estimate = _deferred_cycles if isinstance(dot, Bytes) and dot.depth > 1 else _cycles
    return register_tiles(request, dot, _DEPTHS, lambda w, g, *tile: estimate(w, g, dot, *tile))


def register_tiles(
    request: Request,
    dot: Dot,
    depths: Sequence[int],
    cycles: Callable[[Conv2dWorkload, Geometry, int, int, int], float],
) -> list[Knobs]:
    """Tiles that 16 registers of 256 bits hold, cheapest first.

    depths: blocks of 16 channels of a tile, at most; cycles: of the map, by rows, columns and blocks of a tile.
    """
    w = conv_of(request)
    g, n = Geometry.of(w, request.out_bits), blocks(w.out_channels)
    found: dict[tuple[int, int, int], float] = {}
    for limit in _COLUMNS:
        for deep in depths if w.groups == 1 else (1,):
            (rows, columns), depth = position_tile(g, limit), even_tile(n, deep)
            if dot.registers(rows * columns, 2 * depth) <= _REGISTERS:
                found[rows, columns, depth] = cycles(w, g, rows, columns, depth)
    return [{"rows": r, "columns": c, "blocks": b, "order": loop_order(g, n)} for r, c, b in cheapest(found, _CHOICES)]


def depthwise_256(request: Request, machine: ConvolutionMachine) -> list[Knobs]:
    """Tiles of a row; neighbours share what they load. With more kernel rows all sums of a tile stay in registers."""
    w = conv_of(request)
    limits = _DEPTHWISE_COLUMNS if w.kernel[0] <= 3 else _DEPTHWISE_COLUMNS[1:]
    columns = [even_tile(w.out_width, limit) for limit in limits]
    return distinct(
        {"rows": 1, "columns": c, "blocks": 1, "order": order} for c in columns for order in ("positions", "channels")
    )


def byte_taps_256(request: Request) -> list[Knobs]:
    """Columns of a tile by products of bytes."""
    return distinct({"columns": even_tile(conv_of(request).out_width, limit)} for limit in _DEPTHWISE_COLUMNS)


def _cycles(w: Conv2dWorkload, g: Geometry, dot: HalfBlocks, rows: int, columns: int, depth: int) -> float:
    """Estimated cycles of the map: the reduction's instructions or the stream of its weights, then the end of tiles."""
    steps = g.kernel[0] * g.kernel[1] * ChannelWindow.of(w, dot.channels).cells / 4
    vectors, cycles = 2 * depth, 0.0
    read = dot.step_bytes * vectors * 4 / dot.channels
    for size, count in even_blocks(g.out_width, columns):
        step = dot.instructions(rows * size, vectors) / _RATE
        if read * steps > _LEVEL_1:
            step = max(step, read / _STREAM)
        cycles += count * (steps * step + _END * rows * size * vectors + 15)
    return cycles * tiles(g.out_height, rows) * tiles(blocks(w.out_channels), depth)


def _deferred_cycles(w: Conv2dWorkload, g: Geometry, dot: HalfBlocks, rows: int, columns: int, depth: int) -> float:
    """The same of sums that are widened every few steps, fitted to 25 layers of two networks at w4a8 on Zen 3.

    Sums end in fours. Those of one position end fastest: their bytes lie behind one another.
    """
    steps = g.kernel[0] * g.kernel[1] * ChannelWindow.of(w, dot.channels).cells / 4
    read = dot.step_bytes * 2 * depth * 4 / dot.channels
    reading = _READ * read * min(1.0, max(0.0, read * steps - _LEVEL_1) / _LEVEL_1_SPILL)
    cycles = 0.0
    for size, count in even_blocks(g.out_width, columns):
        for part in tile_channels(blocks(w.out_channels), depth, False):
            vectors = 2 * part.blocks
            end = (25 if rows * size > 1 else 3) + 8 * tiles(rows * size * vectors, 4)
            step = max(dot.instructions(rows * size, vectors) / _RATE, (rows * size + vectors) / _LOADS) + reading
            cycles += count * part.count * (steps * step + end)
    return cycles * tiles(g.out_height, rows)
