"""AVX-512 VNNI: vpdpbusd on four input channels broadcast to sixteen output channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Buffer, Index, Pointer, Register, Value, constant, intrinsic, let, loop
from tvm_mpq.kernels.frames.convolution import Dot
from tvm_mpq.kernels.packing.dense import blocked_weight, nibble_weight

_DOT = "llvm.x86.avx512.vpdpbusd.512"
_DOT_HALF = "llvm.x86.avx512.vpdpbusd.256"


def dot(acc: Value, x: Value, w: Value) -> Value:
    """acc int32x16 + sums of four products of x uint8x64 and w int8x64."""
    return intrinsic(_DOT, "int32", 16, acc, x, w)


def broadcast4(x: Pointer, lanes: int, offset: int = 0) -> Value:
    """Four bytes at `x`, `offset` bytes further, repeated to 4 * lanes bytes."""
    return x.load(4, offset).reinterpret("int32", 1).broadcast(lanes).reinterpret("uint8", 4 * lanes)


class Vnni(Dot):
    """Weights int8[CO/16, KH * KW * CI/4, 16, 4]; one vpdpbusd takes four channels."""

    halves = True
    prefetches = True

    @property
    def step_bytes(self) -> int:
        return 64

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        return blocked_weight(weight, 4)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, 16, 4)

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        whole = len(weights) - half
        ws = [let(w.load(64 if j < whole else 32), "w") for j, w in enumerate(weights)]
        for row, x in zip(accs, inputs, strict=True):
            four = let(broadcast4(x, 16 if whole else 8), "x")
            for acc, wide in zip(row[:whole], ws, strict=False):
                acc.value = dot(acc.value, four, wide)
            if half:
                low = four.lanes_of(range(32)) if whole else four
                row[-1].value = intrinsic(_DOT_HALF, "int32", 8, row[-1].value, low, ws[-1])


class VnniUnpacked(Vnni):
    """Weights of 2..4 bits, expanded to those of `Vnni` once for all positions of a tile of channels.

    Stored uint8[CO/16, ceil(KH * KW * CI/4 / 2), 16, 4]: w + 8 of two steps in the nibbles of 64 bytes.
    """

    unpacks = True
    prefetches = False  # its weights are read once, in order
    weight_dtype = "uint8"

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        return nibble_weight(weight) ^ np.uint8(0x88)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, -(-steps // 2), 16, 4)

    def block_bytes(self, steps: int) -> int:
        return -(-steps // 2) * 2 * self.step_bytes

    def unpack(self, packed: Buffer, block: Index, count: int, target: Buffer, to: Index, block_bytes: int) -> None:
        with loop(count * block_bytes // 128) as u:
            pair = let(packed.load(block * (block_bytes // 2) + u * 64, 64), "pair")
            for step, nibble in enumerate((pair & 15, pair >> 4)):
                target.store(to + u * 128 + 64 * step, (nibble - 8).reinterpret("int8", 64))


class VnniNibble(Dot):
    """Weights of 2..4 bits, two steps of four channels in the nibbles of 64 bytes.

    Both nibbles become the high half of a signed byte, 16 * w, by a mask alone (the low one after a shift), so the sums
    are 16 times too large and are shifted right by 4 at the end: exact while 16 * 255 * 7 * K < 2^31.
    """

    channels = 8
    shift = 4
    weight_dtype = "uint8"

    @property
    def step_bytes(self) -> int:
        return 64

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        return nibble_weight(weight)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, 16, 4)

    def registers(self, positions: int, vectors: int) -> int:
        return positions * vectors + 2 * vectors + 2

    def prepare(self) -> None:
        self.high_nibbles = let(constant(-0x0F0F0F10, "int32", 16), "high_nibbles")  # 0xf0f0f0f0

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        pairs = [let(w.load(64).reinterpret("int32", 16), "pair") for w in weights]
        for part in range(2):
            nibbles = pairs if part else [pair << 4 for pair in pairs]
            ws = [let((nibble & self.high_nibbles).reinterpret("int8", 64), "w") for nibble in nibbles]
            for row, x in zip(accs, inputs, strict=True):
                four = let(broadcast4(x, 16, 4 * part), "x")
                for acc, wide in zip(row, ws, strict=True):
                    acc.value = dot(acc.value, four, wide)
