"""AVX2 without VNNI: exact products by widening, and by bytes with deferred widening where operands are small."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.pack import blocked_weight
from tvm_mpq.kernels.conv.x86_512 import broadcast4
from tvm_mpq.kernels.frames.geometry import ChannelWindow
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.tir import Code, intrin, ramp
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.schema import Conv2dWorkload, padded_channels

_MADD_WORDS = "llvm.x86.avx2.pmadd.wd"
_MADD_BYTES = "llvm.x86.avx2.pmadd.ub.sw"
_REGISTERS = 16
_DEEPEST = 9
"""Steps that sums in 16 bits take at most: what w4a8 allows. Sixteen, for fewer bits, gained 1 to 5 % more."""


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

    def header(self, code: Code) -> None:
        code.let("v_even", "T.Broadcast(T.uint16(255), 16)")

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        eight = "T.Broadcast(T.int16(8), 16)"
        for j, w in enumerate(weights):
            both = code.let(f"p{j}", f'T.reinterpret("int16x16", W[{ramp(w, 32)}])')
            code.let(f"wo{j}", f"T.shift_right({both}, {eight})")
            code.let(f"we{j}", f"T.shift_right(T.shift_left({both}, {eight}), {eight})")
        for i, x in enumerate(xs):
            both = code.let(f"x{i}", f'T.reinterpret("uint16x16", {broadcast4(x, 8)})')
            even = code.let(f"xe{i}", f'T.reinterpret("int16x16", T.bitwise_and({both}, v_even))')
            odd = code.let(f"xo{i}", f'T.reinterpret("int16x16", T.shift_right({both}, T.Broadcast(T.uint16(8), 16)))')
            for j, acc in enumerate(accs[i]):
                first = intrin("int32x8", _MADD_WORDS, even, f"we{j}")
                second = intrin("int32x8", _MADD_WORDS, odd, f"wo{j}")
                code.line(f"{acc} = {acc} + {first} + {second}")


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

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        """Four channels of all positions and vectors, then the next four, so that few weights are held at a time."""
        sums = [[""] * len(weights) for _ in xs]
        for d in range(self.depth):
            ws = [code.let(f"w{d}_{j}", f"W[{ramp(f'{w} + {32 * d}', 32)}]") for j, w in enumerate(weights)]
            for i, x in enumerate(xs):
                xi = code.let(f"x{d}_{i}", broadcast4(f"{x} + {4 * d}", 8))
                for j, w in enumerate(ws):
                    product = intrin("int16x16", _MADD_BYTES, xi, w)
                    sums[i][j] = code.let(f"s{d}_{i}_{j}", f"{sums[i][j]} + {product}" if d else product)
        ones = "T.Broadcast(T.int16(1), 16)"
        for row, line in zip(accs, sums, strict=True):
            for acc, total in zip(row, line, strict=True):
                code.line(f"{acc} = {acc} + {intrin('int32x8', _MADD_WORDS, total, ones)}")


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
