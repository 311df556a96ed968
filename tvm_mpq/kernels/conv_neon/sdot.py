"""sdot: one position's input channels times a block of 16 output channels, in four int32x4.

To the frame an accumulator is one int32x16. LLVM keeps its quarters in four registers; taking and joining them costs
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv_neon.centre import bind_centre, load_centred, repeat_centred
from tvm_mpq.kernels.frames.geometry import BLOCK
from tvm_mpq.kernels.packing.dense import blocked_weight
from tvm_mpq.kernels.tir import Code, intrin, ramp

_SDOT = "llvm.aarch64.neon.sdot"
_QUARTERS = 4  # vectors of four int32 that make a block


class SignedDot(Dot):
    """sdot by lane, steps of 16 input channels, or of 4 where a position has no more.

    Weights int8[CO/16, KH * KW * CI/4, 16, 4]; exact for all operands.
    """

    def __init__(self, cells: int, activation_bits: int) -> None:
        self.channels = 16 if cells % 16 == 0 else 4
        self.activation_bits = activation_bits

    @property
    def step_bytes(self) -> int:
        return BLOCK * self.channels

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        return blocked_weight(weight, 4)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps * self.channels // 4, BLOCK, 4)

    def registers(self, positions: int, vectors: int) -> int:
        return positions * (_QUARTERS * vectors + 1) + _QUARTERS + 1

    def header(self, code: Code) -> None:
        bind_centre(code, self.activation_bits)

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        for i, x in enumerate(xs):
            code.let(f"x{i}", load_centred(x) if self.channels == 16 else repeat_centred(x))
        parts = {
            (i, j, v): f"T.Shuffle([{acc}], {list(range(4 * v, 4 * v + 4))})"
            for i, row in enumerate(accs)
            for j, acc in enumerate(row)
            for v in range(_QUARTERS)
        }
        for q in range(self.channels // 4):
            for j, w in enumerate(weights):
                for v in range(_QUARTERS):
                    code.let(f"w{j}_{q}_{v}", f"W[{ramp(f'{w} + {(q * _QUARTERS + v) * 16}', 16)}]")
            for (i, j, v), part in parts.items():
                four = f'T.Shuffle([T.reinterpret("int32x4", x{i})], {[q] * 4})'
                product = intrin("int32x4", _SDOT, part, f"w{j}_{q}_{v}", f'T.reinterpret("int8x16", {four})')
                parts[i, j, v] = code.let(f"p{i}_{j}_{v}_{q}", product)
        for i, row in enumerate(accs):
            for j, acc in enumerate(row):
                quarters = ", ".join(parts[i, j, v] for v in range(_QUARTERS))
                code.line(f"{acc} = T.Shuffle([{quarters}], {list(range(BLOCK))})")
