"""Packed linear layers: tiles of output channels, cheapest first, steps of a trip, and prefetching."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.frames.linear import LinearMachine, linear_shape
from tvm_mpq.kernels.knobs.choices import cheapest
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of, useful_threads

_VECTORS = (1, 2, 4, 8, 16)
"""Byte vectors of weights in a step of a tile."""
_LATENCY = 4  # cycles until an accumulator can take its next product
_TILE_CYCLES = 30  # of a tile beside its products: the loop begins anew, sums are shifted, scaled and stored
_AHEAD = 16384  # bytes; for weights in memory. Nearer ones were measured to hinder the processor's own prefetching
_CHOICES = 3


def linear_knobs(request: Request, machine: LinearMachine) -> list[Knobs]:
    """Knobs {"parts", "depth", "ahead"}: output vectors of a tile, steps of a trip, bytes from a load to a prefetch."""
    depths, threads = machine.depths(), useful_threads(conv_of(request), request.threads)
    found: dict[int, float] = {}
    for vectors in _VECTORS:
        limit = vectors * machine.coding.fields
        shape = linear_shape(request, {"parts": limit, "depth": depths[0]}, machine)
        if machine.needed(shape.rows, shape.parts) <= machine.registers:
            products = shape.parts * shape.rows
            cycles = shape.steps * max(products, _LATENCY) + products + _TILE_CYCLES
            found[shape.parts] = tiles(shape.tiles, threads) * cycles
    ranked = cheapest(found, _CHOICES)
    space: list[Knobs] = [{"parts": parts, "depth": depth, "ahead": 0} for parts in ranked for depth in depths]
    return [*space, {**space[0], "ahead": _AHEAD}]
