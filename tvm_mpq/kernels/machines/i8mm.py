"""ARM with i8mm: usmmla, which multiplies two positions of eight channels by two output channels of as many.

A vector of int32 holds the sums of two positions and two output channels, so positions go in pairs; an odd last one is
its own partner. Activations are unsigned and weights signed, as stored: nothing is taken off the activations.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, constant, intrinsic, let, shuffle
from tvm_mpq.kernels.frames.machine import Tile, TileMachine
from tvm_mpq.kernels.frames.reduction import Reduction
from tvm_mpq.kernels.packing.dense import blocked_weight
from tvm_mpq.kernels.shapes.geometry import BLOCK, ChannelWindow
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.schema import Conv2dWorkload, padded_channels

_DEPTH = 8  # channels of one product
_STEP = 2 * _DEPTH  # of one load of a position
_COLUMNS = BLOCK // 2  # pairs of output channels
_VECTOR = 16  # bytes


class MatrixProducts(TileMachine):
    """Weights int8[CO/16, KH * KW * CI/8, 16, 8]: two output channels fill a vector. Exact for all operands."""

    channels = _STEP

    def __init__(self, w: Conv2dWorkload) -> None:
        self.cells = ChannelWindow.of(w, _STEP).cells
        self.merged = w.dilation[1] == 1 and self.cells == padded_channels(w.in_channels)

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return blocked_weight(weight, _DEPTH)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2 * steps, BLOCK, _DEPTH)

    def block_bytes(self, steps: int) -> int:
        return steps * BLOCK * _STEP

    @staticmethod
    def registers(positions: int) -> int:
        """Sums, activations of all pairs, and weights as they come."""
        pairs = (positions + 1) // 2
        return pairs * _COLUMNS + 2 * pairs + 2

    def sums(self, tile: Tile) -> list[Value]:
        g, offsets = tile.g, tile.offsets
        pairs = [(offset, offsets[min(i + 1, len(offsets) - 1)]) for i, offset in enumerate(offsets) if i % 2 == 0]
        accs = [[Register(4, "int32") for _ in range(_COLUMNS)] for _ in pairs]
        for row in accs:
            for acc in row:
                acc.value = constant(0, "int32", 4)
        length = (g.kernel[1] if self.merged else 1) * self.cells // _STEP
        reduction = Reduction.of(g, self.merged, length, g.row_width * g.in_cells, _STEP, BLOCK * _STEP)
        x, w = tile.inputs, tile.weights
        with reduction.loops(x.start, w.start) as place:
            self._step(Pointer(x.buffer, place.x), Pointer(w.buffer, place.weights), pairs, accs)
        out = []
        for i in range(len(offsets)):
            quads = [acc.value for acc in accs[i // 2]]
            low = 2 * (i % 2)
            out.append(shuffle(quads, [4 * c + low + j for c in range(_COLUMNS) for j in range(2)]))
        return out

    def _step(self, x: Pointer, w: Pointer, pairs: list[tuple[int, int]], accs: list[list[Register]]) -> None:
        """Sixteen channels: the first eight of two positions side by side, then the others."""
        halves: list[list[Value]] = [[], []]
        for first, second in pairs:
            both = [let(x.load(_STEP, at), "x") for at in (first, second)]
            for half in range(2):
                lanes = range(_DEPTH * half, _DEPTH * half + _DEPTH)
                order = [*lanes, *(_STEP + lane for lane in lanes)]
                halves[half].append(let(shuffle(both, order), "rows"))
        for half, rows in enumerate(halves):
            for c in range(_COLUMNS):
                column = let(w.load(_VECTOR, (half * _COLUMNS + c) * _VECTOR), "w")
                for row, x_rows in zip(accs, rows, strict=True):
                    total = intrinsic("llvm.aarch64.neon.usmmla", "int32", 4, row[c].value, x_rows, column)
                    row[c].value = total
