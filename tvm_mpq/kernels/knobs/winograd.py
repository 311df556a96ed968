"""Knob space of 3x3 convolutions by Winograd's transform: tiles that fit 16 registers, ordered by estimated cycles."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import even_tile, tiles
from tvm_mpq.kernels.knobs.choices import cheapest
from tvm_mpq.kernels.packing.winograd import TRANSFORMS, Winograd
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, Geometry, blocks, conv_of

_BANDS = (1, 1 << 16, 1 << 18)
"""Bytes of transformed inputs that a band may have; it has at least one row of tiles."""
_COLUMNS = (6, 4)
"""Tiles whose sums stay in registers, for a block of 16 channels; two blocks at once need too many registers."""
_CHOICES = 6
_LEVEL_2 = 400_000  # bytes that stay in the second-level cache beside others
_LEVEL_3 = 6_000_000  # bytes that a network leaves in the third-level cache
_RATE = 3.2  # vector instructions a cycle, as measured on Zen 3
_INPUTS = {2: 35, 4: 140}  # cycles that transform 16 channels of one tile
_OUTPUTS = {2: 45, 4: 190}  # cycles that transform and finish 16 channels of one tile


def winograd_knobs(request: Request) -> list[Knobs]:
    """Tiles of 4x4 and 2x2 outputs; bands of few rows, whose scratches stay in near caches, and of many."""
    w = conv_of(request)
    g, n = Geometry.of(w, request.out_bits), blocks(w.out_channels)
    found: dict[tuple[int, int, int], float] = {}
    for outputs, t in TRANSFORMS.items():
        if min(g.out_height, g.out_width) < outputs:
            continue
        across, down = tiles(g.out_width, outputs), tiles(g.out_height, outputs)
        for most in _BANDS:
            band = even_tile(down, max(1, most // (across * t.points**2 * g.in_cells * 2)))
            for columns in _COLUMNS:
                found[outputs, band, columns] = _cycles(g, n, t, band, columns)
    return [
        {"outputs": outputs, "band": band, "columns": columns} for outputs, band, columns in cheapest(found, _CHOICES)
    ]


def _cycles(g: Geometry, all_blocks: int, t: Winograd, band: int, columns: int) -> float:
    """Estimated cycles of one image: products or the stream of their weights, then what goes through scratches."""
    size, products = t.outputs_at_once, t.points**2
    count = band * tiles(g.out_width, size)  # tiles of a band
    steps, sums = g.in_cells / 2, tiles(count, columns)
    of_sums = (4 * count + 3 * sums) * steps / _RATE + 5 * count + 12 * sums
    weights = products * all_blocks * BLOCK * g.in_cells * 2
    stream = weights / (16.0 if weights <= _LEVEL_2 else 8.0 if weights <= _LEVEL_3 else 4.0)
    passing = products * count * (2 * g.in_cells + 2 * 4 * BLOCK) * all_blocks
    held = products * count * (2 * g.in_cells + 4 * BLOCK)
    ends = count * (tiles(g.in_cells, BLOCK) * _INPUTS[size] + all_blocks * _OUTPUTS[size])
    one = max(all_blocks * products * of_sums, stream) + passing / (32.0 if held <= _LEVEL_2 / 2 else 12.0) + ends
    return tiles(tiles(g.out_height, size), band) * one
