"""AVX2 without VNNI: exact products by widening, and by bytes with deferred widening where operands are small."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, constant, intrinsic, let
from tvm_mpq.kernels.frames.convolution import Dot
from tvm_mpq.kernels.frames.geometry import ChannelWindow
from tvm_mpq.kernels.machines.vnni512 import broadcast4
from tvm_mpq.kernels.packing.dense import blocked_weight
from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.schema import Conv2dWorkload, padded_channels

_REGISTERS = 16
_DEEPEST = 9
"""Steps that sums in 16 bits take at most: what w4a8 allows. Sixteen, for fewer bits, gained 1 to 5 % more."""


def multiply_words(a: Value, b: Value) -> Value:
    """int32x8 of int16x16 products, neighbours added (vpmaddwd)."""
    return intrinsic("llvm.x86.avx2.pmadd.wd", "int32", 8, a, b)


def multiply_bytes(x: Value, w: Value) -> Value:
    """int16x16 of uint8x32 times int8x32, neighbours added; saturates (vpmaddubsw)."""
    return intrinsic("llvm.x86.avx2.pmadd.ub.sw", "int16", 16, x, w)


class HalfBlocks(Dot):
    """Accumulators of 256 bits. Weights int8[CO/16, 2, steps of four channels, 8, 4]."""

    lanes = 8

    @abstractmethod
    def instructions(self, positions: int, vectors: int) -> float:
        """Vector instructions of four channels of a tile, loads left out."""

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        packed = blocked_weight(weight, 4)
        halves = packed.reshape(len(packed), -1, 2, 8, 4)
        return np.ascontiguousarray(halves.transpose(0, 2, 1, 3, 4))

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2, steps * self.channels // 4, 8, 4)


class Words(HalfBlocks):
    """Bytes of even and of odd channels widened to 16 bits in registers, then vpmaddwd: exact for all operands."""

    @property
    def step_bytes(self) -> int:
        return 32

    def registers(self, positions: int, vectors: int) -> int:
        """Accumulators and two more: widened weights may as well wait in memory."""
        return positions * vectors + 2

    def instructions(self, positions: int, vectors: int) -> float:
        """Products and sums, what widens activations and weights, and the weights that find no register."""
        spilled = max(0, positions * vectors + 2 * vectors + 3 - _REGISTERS)
        return 4 * positions * vectors + 2 * positions + 3 * vectors + spilled

    def prepare(self) -> None:
        self.even_bytes = let(constant(255, "uint16", 16), "even_bytes")

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        even_w, odd_w = [], []
        for w in weights:
            pair = let(w.load(32).reinterpret("int16", 16), "w")
            odd_w.append(let(pair >> 8, "odd_w"))
            even_w.append(let((pair << 8) >> 8, "even_w"))
        for row, x in zip(accs, inputs, strict=True):
            pair = let(broadcast4(x, 8).reinterpret("uint16", 16), "x")
            even = let((pair & self.even_bytes).reinterpret("int16", 16), "even")
            odd = let((pair >> 8).reinterpret("int16", 16), "odd")
            for acc, first, second in zip(row, even_w, odd_w, strict=True):
                acc.value = acc.value + multiply_words(even, first) + multiply_words(odd, second)


class Bytes(HalfBlocks):
    """vpmaddubsw of `depth` steps added in 16 bits before one widening vpmaddwd.

    Exact while depth * 2 * max(x) * max|w| <= 32767.
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

    def registers(self, positions: int, vectors: int) -> int:
        """Accumulators, sums in 16 bits, weights of one step, activations, a product and ones."""
        return positions * vectors * (2 if self.depth > 1 else 1) + vectors + 3

    def instructions(self, positions: int, vectors: int) -> float:
        """Products and sums; the last term orders tiles of equal work as they were measured."""
        return (2 + 1 / self.depth) * positions * vectors + 0.2 * (positions if self.depth > 1 else vectors)

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
    w, p = request.workload, request.precision
    assert isinstance(w, Conv2dWorkload)
    cost: dict[int, float] = {}
    for depth in range(1, min(_DEEPEST, Bytes.limit(p.weight_bits, p.activation_bits)) + 1):
        cells = ChannelWindow.of(w, 4 * depth).cells
        joined = w.dilation[1] == 1 and cells == padded_channels(w.in_channels)
        if (w.kernel[1] if joined else 1) * cells % (4 * depth) == 0:
            cost[depth] = cells * Bytes(depth).instructions(1, 1)
    return min(cost, key=lambda depth: cost[depth], default=0)
