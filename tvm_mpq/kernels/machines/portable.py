"""Plain vector arithmetic without intrinsics, for any target that LLVM knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, let
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.packing.dense import blocked_weight, diagonal_weight
from tvm_mpq.kernels.shapes.geometry import BLOCK
from tvm_mpq.numerics.arrays import Int8Array


def _wide(bytes_: Value) -> Value:
    """Bytes through 16 to 32 bits, the form in which LLVM sees a 16 bit product."""
    return bytes_.cast("int16").cast("int32")


class Scalar(Dot):
    """One input channel times 16 output channels. Weights int8[CO/16, KH * KW * CI, 16, 1]."""

    channels = 1

    @property
    def step_bytes(self) -> int:
        return BLOCK

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return blocked_weight(weight, 1)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, BLOCK, 1)

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        ws = [let(_wide(w.load(BLOCK)), "w") for w in weights]
        for row, x in zip(accs, inputs, strict=True):
            everywhere = let(x.load(1).cast("int32").broadcast(BLOCK), "x")
            for acc, w in zip(row, ws, strict=True):
                acc.value = acc.value + everywhere * w


class Elementwise(Dot):
    """Depthwise: 16 input channels times the weights of the same channels. Weights int8[C/16, KH * KW, 16]."""

    channels = BLOCK
    terms = 1

    @property
    def step_bytes(self) -> int:
        return BLOCK

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return diagonal_weight(weight)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, BLOCK)

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        w = let(_wide(weights[0].load(BLOCK)), "w")
        for row, x in zip(accs, inputs, strict=True):
            row[0].value = row[0].value + _wide(x.load(BLOCK)) * w
