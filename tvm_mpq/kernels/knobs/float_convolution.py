"""The choice of a float convolution's tile: of registers, and of channels where there is one a group.

A register tile is `rows x cols` output positions times `blocks` vectors of `lanes` output channels. Every step of the
reduction loads `blocks` weight vectors, broadcasts `rows * cols` inputs and issues `rows * cols * blocks` FMAs.
"""

from __future__ import annotations

import math

from tvm_mpq.kernels.emit import even_blocks, fit_lanes, tiles
from tvm_mpq.kernels.features import native_lanes, vector_registers
from tvm_mpq.kernels.registry import Knobs
from tvm_mpq.kernels.shapes.geometry import Geometry, Segments
from tvm_mpq.schema import Conv2dWorkload

_FIRST_LEVEL_BYTES = 24 * 1024
_MOST_COLUMNS = 8
"""Longer tiles read more streams at once than hardware prefetchers follow, and are slower on maps beyond the caches."""
_PAGE = 4096
"""Bytes after which the sets of a first-level cache come again."""
_CROWDED = 1.25
"""Times as long take tiles whose inputs drive each other out of the cache: measured with 14 columns of 1024 floats."""
_CHUNKED_INPUT_BYTES = 2 * 1024 * 1024
"""A larger input comes from afar, and whole rows come faster than parts of them."""


def conv_tiles(w: Conv2dWorkload, features: frozenset[str], only_lanes: int | None = None) -> list[Knobs]:
    """Tiles ordered by estimated time; the first is the default, the list holds about ten."""
    g, segments, native = Geometry.of_floats(w), Segments.of(w), native_lanes(features)
    widest = fit_lanes(segments.out_group, native)
    registers, most_columns = vector_registers(features), _columns_apart(g)
    ranked: list[tuple[float, int, Knobs]] = []
    for lanes in {only_lanes} if only_lanes else {widest, max(widest // 2, 1)}:
        whole, vectors = lanes == (only_lanes or native), tiles(segments.out_group, lanes)
        for rows in range(1, min(4, g.out_height) + 1):
            for cols in range(1, min(28, g.out_width) + 1):
                sizes = even_blocks(g.out_width, cols)
                if sizes[0][0] < cols:
                    continue  # the same tiles as with fewer columns
                for blocks in range(1, min(vectors, 16) + 1):
                    if not _fits(rows * cols, blocks, registers):
                        break
                    width = 1.0 if whole else 0.6
                    group_bytes = segments.count * segments.length * blocks * lanes * 4
                    costs = (n * _tile_cost(rows * c, blocks, vectors, width, group_bytes) for c, n in sizes)
                    cost = tiles(g.out_height, rows) * sum(costs) * (_CROWDED if cols > most_columns else 1)
                    ranked.append((cost, len(ranked), {"lanes": lanes, "rows": rows, "cols": cols, "blocks": blocks}))
    ranked.sort(key=lambda found: found[:2])
    return [knobs for _, _, knobs in ranked[:10]]


def _columns_apart(g: Geometry) -> int:
    """Neighbouring columns whose inputs a first-level cache can hold at once beside the weights.

    Inputs a multiple of 4096 bytes apart share one of its sets, of eight lines or more.
    """
    distance = g.in_cells * g.stride[1] * 4
    return 7 * (_PAGE // math.gcd(_PAGE, distance))


def _fits(positions: int, blocks: int, registers: int) -> bool:
    """Whether sums, weights and a broadcast input fit the registers, with the slack LLVM was seen to need.

    With 16 registers (AVX2) an FMA cannot broadcast its operand by itself: long columns would be bound by loads.
    """
    sums = positions * blocks
    slack = 4 if registers == 32 and blocks > 2 else 0
    return sums + blocks + 1 + slack <= registers and (registers == 32 or positions <= 6)


def _tile_cost(positions: int, blocks: int, vectors: int, width: float, group_bytes: int) -> float:
    """Estimated time in FMA issue slots per reduction step, summed over all channels of one tile of positions.

    A step costs its FMAs or its loads, whichever is more; fewer than 8 independent chains wait for the FMA latency.
    Loads that hide behind FMAs still cost a little, weights more when a group of them does not fit the first-level
    cache and is streamed again for every tile. width: slots of a vector, 0.6 where it is half as wide as the machine's:
    half a slot on cores that split wide vectors, one on others.
    """
    weight_cost = 0.35 if group_bytes > _FIRST_LEVEL_BYTES else 0.15

    def step(b: int) -> float:
        if b == 0:
            return 0.0
        busy = max(positions * b * width, (positions + b * width) * 0.9, 8.0 * width)
        return busy + 0.1 * positions + weight_cost * b * width

    return vectors // blocks * step(blocks) + step(vectors % blocks)


def depthwise_tiles(w: Conv2dWorkload, features: frozenset[str]) -> list[Knobs]:
    """Columns of a tile, lanes, and chunks of channels; the first is the default."""
    widest = fit_lanes(w.out_channels, native_lanes(features))
    limit = min(w.out_width, _MOST_COLUMNS)
    found: list[Knobs] = []
    for lanes in dict.fromkeys((widest, max(widest // 2, 1))):
        chunks = _chunks(w, lanes)
        by_waste = sorted(range(1, limit + 1), key=lambda c: (tiles(w.out_width, c)) * (c + 0.5 * w.kernel[1] + 1))
        orders = chunks if lanes == widest else chunks[:1]
        found += [{"lanes": lanes, "cols": cols, "chunks": n} for n in orders for cols in by_waste[:3]]
    return found


def _chunks(w: Conv2dWorkload, lanes: int) -> list[int]:
    """How many parts the channels are worth dividing into, the default first."""
    vectors = tiles(w.out_channels, lanes)
    fitting = max(1, _FIRST_LEVEL_BYTES // (w.kernel[0] * w.in_width * lanes * 4))
    parts = tiles(vectors, fitting)
    near = w.in_height * w.in_width * w.in_channels * 4 <= _CHUNKED_INPUT_BYTES
    return list(dict.fromkeys((parts, 1) if near else (1, parts)))
