"""Depthwise convolution on AVX2: vpmaddwd on two kernel rows at once, in 16 bits and so exact for all operands.

Inputs are widened as they are copied. The inputs of two rows are interleaved channel by channel when they are loaded,
and serve all kernel columns and output columns of a tile that meet them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, let, loop, tiles
from tvm_mpq.kernels.frames.machine import Tile, TileMachine
from tvm_mpq.kernels.machines.avx2 import multiply_words
from tvm_mpq.kernels.packing.dense import diagonal_weight
from tvm_mpq.kernels.shapes.geometry import BLOCK
from tvm_mpq.numerics.arrays import Int8Array

_LANES = 8
_VECTOR = 32  # bytes of the weights of a kernel column and two rows
_UNROLLED_ROWS = 5


class RowPairs(TileMachine):
    """Weights int16[C/16, 2, ceil(KH/2), KW, 8, 2] in bytes; an odd last row is paired with zeros."""

    lanes = _LANES
    channels = BLOCK
    terms = 1
    biased = True
    input_dtype = "int16"
    own_channels = True

    def __init__(self, kernel: tuple[int, int]) -> None:
        self.kernel, self.pairs = kernel, tiles(kernel[0], 2)

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        kh, kw = self.kernel
        taps = diagonal_weight(weight).reshape(-1, kh, kw, 2, _LANES)
        taps = np.pad(taps, [(0, 0), (0, kh % 2), *[(0, 0)] * 3]).reshape(-1, self.pairs, 2, kw, 2, _LANES)
        return np.ascontiguousarray(taps.transpose(0, 4, 1, 3, 5, 2).astype(np.int16)).view(np.int8)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2, self.pairs, self.kernel[1], _LANES, _VECTOR // _LANES)

    def block_bytes(self, steps: int) -> int:
        return 2 * self.pairs * self.kernel[1] * _VECTOR

    def sums(self, tile: Tile) -> list[Value]:
        g, (kh, kw) = tile.g, self.kernel
        bias = let(tile.bias.load(_LANES), "bias")
        accs = [Register(_LANES, "int32") for _ in tile.offsets]
        for acc in accs:
            acc.value = bias
        x, w = tile.inputs.bind("x_tile"), tile.weights.bind("w_tile")
        row = g.dilation[0] * g.row_width * g.in_cells
        if kh <= _UNROLLED_ROWS:
            for pair in range(kh // 2):
                self._pair(tile, x.at(2 * pair * row), w.at(pair * kw * _VECTOR), row, accs)
        else:
            with loop(kh // 2) as k:
                self._pair(tile, x.at(k * (2 * row)).bind("x_row"), w.at(k * (kw * _VECTOR)).bind("w_row"), row, accs)
        if kh % 2:
            self._pair(tile, x.at((kh - 1) * row), w.at(kh // 2 * kw * _VECTOR), None, accs)
        return [acc.value for acc in accs]

    def _pair(self, tile: Tile, x: Pointer, w: Pointer, row: int | None, accs: list[Register]) -> None:
        """Add the products of two kernel rows, `row` cells apart, or of a last one alone."""
        step = tile.g.dilation[1] * tile.g.in_cells
        weights = [let(w.load(_VECTOR, _VECTOR * c).reinterpret("int16", 16), "w") for c in range(self.kernel[1])]
        meet: dict[int, list[tuple[Register, Value]]] = {}
        for acc, offset in zip(accs, tile.offsets, strict=True):
            for c, weight in enumerate(weights):
                meet.setdefault(offset + c * step, []).append((acc, weight))
        for at in sorted(meet):
            both = x.load(_LANES, at).cast("int32")
            if row is not None:
                both = both | (x.load(_LANES, at + row).cast("int32") << 16)
            inputs = let(both.reinterpret("int16", 2 * _LANES), "x")
            for acc, weight in meet[at]:
                acc.value = acc.value + multiply_words(inputs, weight)
