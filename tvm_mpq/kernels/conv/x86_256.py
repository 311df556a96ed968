"""AVX2 without VNNI: exact products by widening, and by bytes with deferred widening where operands are small."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.pack import blocked_weight
from tvm_mpq.kernels.conv.x86_512 import broadcast4
from tvm_mpq.kernels.tir import Code, intrin, ramp
from tvm_mpq.numerics.affine import weight_range

_MADD_WORDS = "llvm.x86.avx2.pmadd.wd"
_MADD_BYTES = "llvm.x86.avx2.pmadd.ub.sw"


class _HalfBlocks(Dot):
    """Weights int8[CO/16, 2, steps of four channels, 8, 4]."""

    lanes = 8

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        packed = blocked_weight(weight, 4)
        halves = packed.reshape(len(packed), -1, 2, 8, 4)
        return np.ascontiguousarray(halves.transpose(0, 2, 1, 3, 4))

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2, steps * self.channels // 4, 8, 4)


class Words(_HalfBlocks):
    """Bytes of even and of odd channels widened to 16 bits in registers, then vpmaddwd: exact for all operands."""

    @property
    def step_bytes(self) -> int:
        return 32

    def registers(self, positions: int, vectors: int) -> int:
        return positions * vectors + 2 * vectors + 3

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


class Bytes(_HalfBlocks):
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
        return positions * vectors + self.depth + 2

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        ones = "T.Broadcast(T.int16(1), 16)"
        for i, x in enumerate(xs):
            parts = [code.let(f"x{i}_{d}", broadcast4(f"{x} + {4 * d}", 8)) for d in range(self.depth)]
            for acc, w in zip(accs[i], weights, strict=True):
                products = [
                    intrin("int16x16", _MADD_BYTES, part, f"W[{ramp(f'{w} + {32 * d}', 32)}]")
                    for d, part in enumerate(parts)
                ]
                code.line(f"{acc} = {acc} + {intrin('int32x8', _MADD_WORDS, ' + '.join(products), ones)}")
