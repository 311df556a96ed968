"""Depthwise convolution on AVX2: vpmaddwd on two taps at once, in 16 bits and so exact for all operands.

Inputs are widened as they are copied. Two taps are two rows of one kernel column or, in the last row of an odd kernel,
two columns. Their inputs are interleaved when they are loaded, and serve all kernel columns and output columns of a
tile that meet them. Interleaving takes one instruction for eight channels, in the order of `_HALVES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, let, loop, shuffle
from tvm_mpq.kernels.emit.quads import quads_apart
from tvm_mpq.kernels.frames.machine import Tile, TileMachine
from tvm_mpq.kernels.machines.avx2 import multiply_words
from tvm_mpq.kernels.packing.dense import diagonal_weight
from tvm_mpq.kernels.shapes.geometry import BLOCK
from tvm_mpq.numerics.arrays import Int8Array

_LANES = 8
_VECTOR = 32  # bytes of the weights of two taps of eight channels
_UNROLLED_PAIRS = 2  # pairs of kernel rows
_HALVES = tuple([c for first in (i, 8 + i) for c in range(first, first + 4)] for i in (0, 4))
"""Channels of the two vectors of a block."""
_INTERLEAVED = tuple([n for c in half for n in (c, BLOCK + c)] for half in _HALVES)
"""How the two inputs of each channel of a vector come together."""


class TapPairs(TileMachine):
    """Weights int16[C/16, 2, pairs of taps, 8, 2] in bytes; a tap without a partner is paired with zeros."""

    lanes = _LANES
    channels = BLOCK
    terms = 1
    biased = True
    input_dtype = "int16"
    quads_apart = True

    def __init__(self, kernel: tuple[int, int]) -> None:
        self.kernel = kernel
        self.columns = range(0, kernel[1], 2) if kernel[0] % 2 else range(0)
        """Kernel columns at which pairs of the last row begin."""

    @property
    def count(self) -> int:
        """Pairs of taps."""
        return self.kernel[0] // 2 * self.kernel[1] + len(self.columns)

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        kh, kw = self.kernel
        taps = diagonal_weight(weight).reshape(-1, kh, kw, BLOCK).astype(np.int16)
        taps = np.pad(taps, [(0, 0), (0, 0), (0, 1), (0, 0)])
        found = [(taps[:, r, c], taps[:, r + 1, c]) for r in range(0, kh - 1, 2) for c in range(kw)]
        found += [(taps[:, kh - 1, c], taps[:, kh - 1, c + 1]) for c in self.columns]
        both = np.stack([np.stack(pair, axis=-1) for pair in found], axis=1)
        halves = both[:, :, list(_HALVES)].transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(halves).view(np.int8)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2, self.count, _LANES, _VECTOR // _LANES)

    def block_bytes(self, steps: int) -> int:
        return 2 * self.count * _VECTOR

    def sums(self, tile: Tile) -> Iterator[Value]:
        g, (kh, kw) = tile.g, self.kernel
        assert isinstance(tile.vector, int)
        natural = [let(tile.bias.load(_LANES, i), "natural") for i in (0, _LANES)]
        bias = let(quads_apart(natural)[tile.vector], "bias")
        accs = [Register(_LANES, "int32") for _ in tile.offsets]
        for acc in accs:
            acc.value = bias
        x, w = tile.inputs.bind("x_tile"), tile.weights.bind("w_tile")
        row, step = g.dilation[0] * g.row_width * g.in_cells, g.dilation[1] * g.in_cells
        across = kh // 2 * kw * _VECTOR  # where the weights of the last row begin
        last = {c: _Pair(x.at((kh - 1) * row), step, w.at(across + c // 2 * _VECTOR)) for c in self.columns}

        def two_rows(x: Pointer, w: Pointer) -> dict[int, _Pair]:
            return {c: _Pair(x, row, w.at(c * _VECTOR)) for c in range(kw)}

        if kh <= 3:  # all at once, so that few sums wait for products
            together = [two_rows(x, w), last] if kh > 1 else [last]
        else:  # the weights of two rows at a time fit the registers
            together = [last] if last else []
            if kh // 2 <= _UNROLLED_PAIRS:
                for pair in range(kh // 2):
                    _finish(_walk(tile, [two_rows(x.at(2 * pair * row), w.at(pair * kw * _VECTOR))], step, accs))
            else:
                with loop(kh // 2) as k:
                    rows, weights = x.at(k * (2 * row)).bind("x_row"), w.at(k * (kw * _VECTOR)).bind("w_row")
                    _finish(_walk(tile, [two_rows(rows, weights)], step, accs))
        for i in _walk(tile, together, step, accs):
            yield let(accs[i].value, "sum")


@dataclass(frozen=True)
class _Pair:
    """Two taps: the inputs of the first for the tile's first position, how far those of the other are, the weights."""

    inputs: Pointer
    apart: int
    weights: Pointer


def _finish(outputs: Iterator[int]) -> None:
    """Write all code of a walk whose sums are not complete yet."""
    for _ in outputs:
        pass


def _walk(tile: Tile, rows: list[dict[int, _Pair]], step: int, accs: list[Register]) -> Iterator[int]:
    """Add the products of some pairs of taps, by input columns; gives the outputs in their order, as they are complete.

    rows: pairs whose inputs are interleaved alike, by the kernel column of their first tap; step: elements from one
    kernel column to the next.
    """
    met: dict[int, list[tuple[int, int]]] = {}  # (output, kernel column) by where their inputs begin
    columns = sorted({column for pairs in rows for column in pairs})
    for i, offset in enumerate(tile.offsets):
        for column in columns:
            met.setdefault(offset + column * step, []).append((i, column))
    assert isinstance(tile.vector, int)
    order = _INTERLEAVED[tile.vector]
    weights = [
        {column: let(pair.weights.load(_VECTOR).reinterpret("int16", 16), "w") for column, pair in pairs.items()}
        for pairs in rows
    ]
    missing, done = [len(columns)] * len(accs), 0
    for at in sorted(met):
        inputs: dict[int, Value] = {}
        for i, column in met[at]:
            for n, pairs in enumerate(rows):
                if column not in pairs:
                    continue
                if n not in inputs:
                    pair = pairs[column]
                    two = [let(pair.inputs.load(BLOCK, at + apart), "x") for apart in (0, pair.apart)]
                    inputs[n] = let(shuffle(two, order), "both")
                accs[i].value = accs[i].value + multiply_words(inputs[n], weights[n][column])
            missing[i] -= 1
        while done < len(accs) and not missing[done]:
            yield done
            done += 1
    yield from range(done, len(accs))
