"""Knob space of the dense frame with vpdpbusd of 256 bits: tiles for 16 registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import even_blocks, tiles
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.knobs.dense256 import register_tiles
from tvm_mpq.kernels.knobs.depthwise import depthwise_knobs
from tvm_mpq.kernels.packing.depthwise import window
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import ChannelWindow, Geometry, blocks, conv_of
from tvm_mpq.schema import Conv2dWorkload

_DEPTHS = (1, 2, 3, 4, 6)
"""Blocks of 16 channels."""
_WEIGHTS = 9  # of a depthwise vector, beside sums and inputs
# Of Golden Cove, by Intel's instruction tables: nobody has measured these kernels yet.
_PRODUCTS = 2.0  # a cycle
_LATENCY = 5.0  # cycles until an accumulator takes its next product
_LOADS = 3.0  # a cycle
_LEVEL_1 = 24_576  # bytes of weights that stay in the first-level cache beside the activations
_STREAM = 40.0  # bytes a cycle from the second-level cache
_END = 4.0  # cycles that the end of an accumulator takes, as measured on Zen 4 with AVX2
_TILE = 15.0  # cycles of a tile beside that, as measured there


def tiles_vnni_256(request: Request, dot: Dot) -> list[Knobs]:
    """Tiles for AVX-VNNI, cheapest first."""
    return register_tiles(request, dot, _DEPTHS, lambda w, g, *tile: _cycles(w, g, dot, *tile))


def depthwise_vnni_256(request: Request) -> list[Knobs]:
    """Tiles whose weights of a vector the registers hold, or the least."""
    space = depthwise_knobs(request)
    w = conv_of(request)
    held = [k for k in space if w.kernel[1] * len(window(w, k["rows"]).pairs()) <= _WEIGHTS]
    return held or space[:1]


def _cycles(w: Conv2dWorkload, g: Geometry, dot: Dot, rows: int, columns: int, depth: int) -> float:
    """Estimated cycles of the map: products, the wait for them, or what is read, and the end of tiles."""
    steps = g.kernel[0] * g.kernel[1] * ChannelWindow.of(w, dot.channels).cells // dot.channels
    vectors, cycles = 2 * depth, 0.0
    read = dot.step_bytes * vectors
    for size, count in even_blocks(g.out_width, columns):
        positions = rows * size
        step = max(positions * vectors / _PRODUCTS, _LATENCY, (positions + vectors) / _LOADS)
        if read * steps > _LEVEL_1:
            step = max(step, read / _STREAM)
        cycles += count * (steps * step + _END * positions * vectors + _TILE)
    return cycles * tiles(g.out_height, rows) * tiles(blocks(w.out_channels), depth)
