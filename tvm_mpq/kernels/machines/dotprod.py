"""NEON with dot products: sdot of one position's input channels and a block of 16 output channels, in four int32x4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, broadcast4, intrinsic, let, shuffle
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.machines.neon import bind_centre, centre, less
from tvm_mpq.kernels.packing.dense import blocked_weight
from tvm_mpq.kernels.shapes.geometry import BLOCK
from tvm_mpq.numerics.arrays import Int8Array

_QUARTERS = [range(i, i + 4) for i in range(0, BLOCK, 4)]
"""To the frame an accumulator is one int32x16. LLVM keeps its quarters in four registers; taking and joining them costs
nothing."""


class SignedDot(Dot):
    """sdot by lane, steps of 16 input channels, or of 4 where a position has no more.

    Weights int8[CO/16, KH * KW * CI/4, 16, 4]; exact for all operands.
    """

    def __init__(self, cells: int, activation_bits: int) -> None:
        self.channels = 16 if cells % 16 == 0 else 4
        self.taken = centre(activation_bits)

    @property
    def step_bytes(self) -> int:
        return BLOCK * self.channels

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return blocked_weight(weight, 4)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps * self.channels // 4, BLOCK, 4)

    def registers(self, positions: int, vectors: int) -> int:
        return positions * (len(_QUARTERS) * vectors + 1) + len(_QUARTERS) + 1

    def prepare(self) -> None:
        self.centre = bind_centre(self.taken)

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        loaded = [x.load(16) if self.channels == 16 else broadcast4(x, 4) for x in inputs]
        xs = [let(less(x, self.centre), "x") for x in loaded]
        sums = [[[acc.value.lanes_of(lanes) for lanes in _QUARTERS] for acc in row] for row in accs]
        for q in range(self.channels // 4):
            ws = [[let(w.load(16, 4 * BLOCK * q + 4 * lanes.start), "w") for lanes in _QUARTERS] for w in weights]
            for row, x in zip(sums, xs, strict=True):
                four = x.reinterpret("int32", 4).lanes_of([q] * 4).reinterpret("int8", 16)
                for quarters, columns in zip(row, ws, strict=True):
                    for v, w in enumerate(columns):
                        total = intrinsic("llvm.aarch64.neon.sdot", "int32", 4, quarters[v], w, four)
                        quarters[v] = let(total, "sum")
        for accs_of_position, row in zip(accs, sums, strict=True):
            for acc, quarters in zip(accs_of_position, row, strict=True):
                acc.value = shuffle(quarters, range(BLOCK))
