"""AVX2 without VNNI: exact products by widening, and by bytes with deferred widening where operands are small."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Pointer,
    Register,
    Value,
    accumulators,
    broadcast4,
    clear,
    constant,
    intrinsic,
    let,
    loop,
    repeated_byte,
)
from tvm_mpq.kernels.frames.linear import LinearMachine, LinearTile
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.machines.nibbles import Counters, NibbleMachine
from tvm_mpq.kernels.packing.dense import blocked_weight
from tvm_mpq.kernels.packing.linear import SIGN_BIT, ByteCoding, LinearShape
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import ChannelWindow, Geometry, conv_of
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.schema import padded_channels

_WIDE_POSITIONS = 4
"""Outputs of a channel from which weights are stored in 16 bits."""
_REGISTERS = 16
_HALF = 4  # bits of half a byte
_DEEPEST = 9
"""Steps that sums in 16 bits take at most: what w4a8 allows. Sixteen, for fewer bits, gained 1 to 5 % more."""


def multiply_words(a: Value, b: Value) -> Value:
    """int32x8 of int16x16 products, neighbours added (vpmaddwd)."""
    return intrinsic("llvm.x86.avx2.pmadd.wd", "int32", 8, a, b)


def multiply_bytes(x: Value, w: Value) -> Value:
    """int16x16 of uint8x32 times int8x32, neighbours added; saturates (vpmaddubsw)."""
    return intrinsic("llvm.x86.avx2.pmadd.ub.sw", "int16", 16, x, w)


class HalfBlocks(Dot):
    """Accumulators of 256 bits, two to a block; in each step the weights of one lie behind those of the other.

    Weights int8[CO/16, steps of four channels, 16, 4]. As two streams they would be a multiple of 4096 bytes apart in
    many layers, and what a core reads in the same breath may then be in one another's way: up to half the speed.
    """

    lanes = 8

    @abstractmethod
    def instructions(self, positions: int, vectors: int) -> float:
        """Vector instructions of four channels of a tile, loads left out."""

    @property
    def stride_bytes(self) -> int:
        return 2 * self.step_bytes

    def vector_bytes(self, steps: int) -> int:
        return self.step_bytes

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return blocked_weight(weight, 4)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps * self.channels // 4, 16, 4)


class Words(HalfBlocks):
    """Products of 16 bits (vpmaddwd), exact for all operands; inputs are widened once, when rows are copied.

    Weights int16[CO/16, steps of two channels, 16, 2] in bytes, so that a step only multiplies and adds; or int8,
    widened as they are loaded, where few positions share them and reading them is what takes the time.
    """

    channels = 2
    input_dtype = "int16"
    prefetches = True

    def __init__(self, positions: int) -> None:
        self.wide = positions >= _WIDE_POSITIONS

    @property
    def step_bytes(self) -> int:
        return 32 if self.wide else 16

    def registers(self, positions: int, vectors: int) -> int:
        """Accumulators, weights, an activation and a product."""
        return positions * vectors + vectors + 2

    def instructions(self, positions: int, vectors: int) -> float:
        """Products and sums of two steps, what widens weights, and one for each of their vectors, as was measured."""
        return 4 * positions * vectors + (1 if self.wide else 3) * vectors

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        packed = blocked_weight(weight, 2)
        return (packed.astype(np.int16) if self.wide else packed).view(np.int8)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, 16, self.step_bytes // 8)

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        words = [let(self._loaded(w), "w") for w in weights]
        for row, pointer in zip(accs, inputs, strict=True):
            pair = let(pointer.load(2).reinterpret("int32", 1).broadcast(8).reinterpret("int16", 16), "pair")
            for acc, word in zip(row, words, strict=True):
                acc.value = acc.value + multiply_words(pair, word)

    def _loaded(self, weights: Pointer) -> Value:
        return weights.load(32).reinterpret("int16", 16) if self.wide else weights.load(16).cast("int16")


class Bytes(HalfBlocks):
    """vpmaddubsw of `depth` steps added in 16 bits before one widening vpmaddwd.

    Exact while depth * 2 * max(x) * max|w| <= 32767. Weights int8[CO/16, steps, 2, depth, 8, 4]. Sums in 16 bits stay
    in registers; those in 32 bits wait in the first-level cache where there are not enough for both.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.channels = 4 * depth

    @staticmethod
    def limit(weight_bits: int, activation_bits: int) -> int:
        """The greatest exact depth; 0 when even one product pair can overflow."""
        return int(32767 // (2 * (2**activation_bits - 1) * weight_range(weight_bits)[1]))

    @property
    def step_bytes(self) -> int:
        return 32 * self.depth

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        packed = blocked_weight(weight, 4)
        steps = packed.reshape(len(packed), -1, self.depth, 2, 8, 4)
        return np.ascontiguousarray(steps.transpose(0, 1, 3, 2, 4, 5))

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, 2, self.depth, 8, 4)

    def registers(self, positions: int, vectors: int) -> int:
        """Sums, weights, activations and a product; with depth, weights may be operands in memory."""
        if self.depth > 1:
            return positions * vectors + min(vectors, 2) + 2
        return positions * vectors + vectors + 3

    def instructions(self, positions: int, vectors: int) -> float:
        """Products and sums, and what moves sums in 32 bits; the last terms order tiles as they were measured."""
        if self.depth == 1:
            return 3 * positions * vectors + 0.2 * vectors
        moved = positions * vectors * 2 + vectors + 3 > _REGISTERS
        return (2 + (2 if moved else 1) / self.depth) * positions * vectors + 0.2 * positions

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        """Four channels of all positions and vectors, then the next four, so that few weights are held at a time."""
        sums: list[list[Value]] = [[] for _ in inputs]
        for d in range(self.depth):
            ws = [let(w.load(32, 32 * d), "w") for w in weights]
            for i, x in enumerate(inputs):
                four = let(broadcast4(x, 8, 4 * d), "x")
                products = [multiply_bytes(four, w) for w in ws]
                if d:
                    products = [total + product for total, product in zip(sums[i], products, strict=True)]
                sums[i] = [let(total, "sum") for total in products]
        ones = constant(1, "int16", 16)
        for row, line in zip(accs, sums, strict=True):
            for acc, total in zip(row, line, strict=True):
                acc.value = acc.value + multiply_words(total, ones)


def bytes_depth(request: Request) -> int:
    """The depth of `Bytes` that takes the fewest instructions; 0 when not even one step is exact.

    It must divide the steps of the innermost loop, those of a row of taps or of one tap, and a tap's channels are
    filled up to whole depths.
    """
    w, p = conv_of(request), request.precision
    cost: dict[int, float] = {}
    taps = Geometry.of(w, request.out_bits).kernel[1]
    for depth in range(1, min(_DEEPEST, Bytes.limit(p.weight_bits, p.activation_bits)) + 1):
        cells = ChannelWindow.of(w, 4 * depth).cells
        joined = w.dilation[1] == 1 and cells == padded_channels(w.in_channels)
        if (taps if joined else 1) * cells % (4 * depth) == 0:
            cost[depth] = cells * Bytes(depth).instructions(1, 1)
    return min(cost, key=lambda depth: cost[depth], default=0)


def steps_limit(coding: ByteCoding) -> int:
    """Steps whose products 16 bits hold: two products of the least activation, -128, and the greatest field in place.

    The sum may be -32768 exactly; positive ones are smaller, because activations end at 127.
    """
    return 32768 // (2 * SIGN_BIT * _highest(coding))


def _highest(coding: ByteCoding) -> int:
    return coding.greatest << (_HALF - coding.bits)


class Avx2Fields(LinearMachine):
    """vpmaddubsw of packed weights of linear layers with signed activations, added up in 16 bits, then in 32.

    Fields of the low half of a byte are masked where they are, those of the high half after a shift by four, so that no
    field is worth more than 15: two products of whatever bytes fit 16 bits, and so do sums of several steps.
    Accumulators of 16 bits stay in registers, those of 32 bits are touched once a trip.
    """

    lanes = 8
    registers = 16

    @property
    def highest(self) -> int:
        return _highest(self.coding)

    def depths(self) -> list[int]:
        return [steps_limit(self.coding)]

    def needed(self, rows: int, parts: int) -> int:
        return rows * (parts + 1) + self._half + 3

    @property
    def _half(self) -> int:
        """Fields of half a byte."""
        return _HALF // self.coding.bits

    def prepare(self, shape: LinearShape, inputs: Buffer) -> None:
        field = (1 << self.coding.bits) - 1
        self.masks = [let(repeated_byte(field << j * self.coding.bits, 8), "mask") for j in range(self._half)]

    def sums(self, tile: LinearTile) -> list[list[Value]]:
        s, accs = tile.shape, tile.zero_sums()
        words = accumulators(s.rows, [16] * s.parts, "int16")
        with loop(s.trips) as k:
            clear(words)
            with loop(s.depth) as d:
                self._step(tile, k * s.depth + d, words)
            for row, counted in zip(accs, words, strict=True):
                for acc, word in zip(row, counted, strict=True):
                    acc.value = acc.value + multiply_words(word.value, constant(1, "int16", 16))
        return [[acc.value >> self.coding.bits * (i % self._half) for i, acc in enumerate(row)] for row in accs]

    def _step(self, tile: LinearTile, step: Index, words: list[list[Register]]) -> None:
        xs = tile.quads(step)
        for v in range(tile.shape.vectors):
            w = let(tile.packed(step, v), "w")
            for j in range(tile.shape.fields_of(v)):
                if j == self._half:
                    w = let(w >> _HALF, "high")
                u = let((w & self.masks[j % self._half]).reinterpret("uint8", 32), "u")
                for row, x in zip(words, xs, strict=True):
                    word = row[v * self.coding.fields + j]
                    word.value = word.value + multiply_bytes(u, x)


class Avx2Nibbles(NibbleMachine):
    """vpshufb looks up two tables at once, vpmaddubsw adds the two bits of a weight."""

    rows = 2
    registers = 16
    byte_channels = tuple(j // 2 + j % 2 * 8 for j in range(16))

    def find(self, tables: Value, index: Value) -> Value:
        return intrinsic("llvm.x86.avx2.pshuf.b", "uint8", 32, tables, index)

    def add_pairs(self, acc: Value, found: Value) -> Value:
        return acc + multiply_bytes(found, constant(1, "int8", 32)).reinterpret("uint16", 16)

    def count(self, counters: Counters, found: Value) -> None:
        """The first counter takes pairs of bytes as they are (modulo 2^16), the second the odd bytes."""
        pairs = let(found.reinterpret("uint16", 16), "pairs")
        counters[0].value = counters[0].value + pairs
        counters[1].value = counters[1].value + (pairs >> 8)

    def halves(self, counters: list[Value]) -> list[Value]:
        return [counters[0] - (counters[1] << 8), counters[1]]
