"""Depthwise weights for four-way byte products over vertically interleaved rows, and the order of their channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks, conv_of
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload

PAIR_QUADS = ((0, 16, 4, 20), (8, 24, 12, 28))
"""Channels of two interleaved blocks at which the quads of their two accumulators begin."""

PAIR_ORDER = [quad + lane for quads in PAIR_QUADS for quad in quads for lane in range(4)]
"""Channel of each of the 32 lanes that two interleaved blocks make."""


@dataclass(frozen=True)
class Window:
    """Which groups of four input rows each output row of a tile of `rows` needs."""

    rows: int
    kernel: int
    stride: int
    dilation: int

    @property
    def reach(self) -> int:
        """Input rows of the tile."""
        return (self.rows - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def groups(self) -> int:
        """Groups of four input rows of the tile, the last one perhaps not full."""
        return tiles(self.reach, 4)

    def taps(self, row: int) -> list[tuple[int, int]]:
        """(kernel row, input row of the tile) of one output row."""
        return [(k, row * self.stride + k * self.dilation) for k in range(self.kernel)]

    def pairs(self) -> list[tuple[int, int]]:
        """All (output row, group) with a product."""
        return sorted({(r, y // 4) for r in range(self.rows) for _, y in self.taps(r)})


def paired(request: Request) -> bool:
    """Whether blocks go in pairs: the packs that bring their channels back make bytes."""
    return request.out_bits != FLOAT_BITS


def window(w: Conv2dWorkload, rows: int) -> Window:
    """Of tiles of at most `rows` output rows."""
    return Window(min(rows, w.out_height), w.kernel[0], w.stride[0], w.dilation[0])


def lane_order(request: Request, lanes: int = BLOCK) -> npt.NDArray[np.int64]:
    """int64[blocks * 16]: the channel of each lane, of accumulators that have so many."""
    out_blocks = blocks(conv_of(request).out_channels)
    order = np.arange(out_blocks * BLOCK)
    pairs = out_blocks // 2 if lanes == BLOCK and paired(request) else 0
    order[: pairs * 32] = (order[: pairs * 32].reshape(pairs, 32)[:, PAIR_ORDER]).reshape(-1)
    return order


def pack_depthwise(request: Request, knobs: Knobs, weight: Int8Array, lanes: int = BLOCK) -> Int8Array:
    """int8[C, KH, KW, 1] -> int8[C/16, KW, pairs, 16, 4] for the tile height of `knobs`, channels in `lane_order`."""
    w = conv_of(request)
    win = window(w, knobs["rows"])
    pairs = win.pairs()
    flat = np.zeros((blocks(w.out_channels) * BLOCK, w.kernel[1], len(pairs), 4), np.int8)
    for p, (row, group) in enumerate(pairs):
        for k, y in win.taps(row):
            if y // 4 == group:
                flat[: w.out_channels, :, p, y % 4] = weight[:, k, :, 0]
    ordered = flat[lane_order(request, lanes)]
    return np.ascontiguousarray(ordered.reshape(-1, BLOCK, *flat.shape[1:]).transpose(0, 2, 3, 1, 4))
