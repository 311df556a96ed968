"""AVX-512 VNNI: vpdpbusd on four input channels, broadcast to sixteen output channels."""

from __future__ import annotations

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
    broadcast4,
    constant,
    intrinsic,
    let,
    loop,
    repeated_byte,
    tiles,
    unrolled,
)
from tvm_mpq.kernels.frames.linear import LinearMachine, LinearTile
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.packing.dense import blocked_weight, nibble_weight
from tvm_mpq.kernels.packing.linear import LinearShape
from tvm_mpq.numerics.arrays import Int8Array

_DOT = "llvm.x86.avx512.vpdpbusd.512"
_DOT_HALF = "llvm.x86.avx512.vpdpbusd.256"


def dot(acc: Value, x: Value, w: Value) -> Value:
    """acc int32x16 + sums of four products of x uint8x64 and w int8x64."""
    return intrinsic(_DOT, "int32", 16, acc, x, w)


class Vnni(Dot):
    """Weights int8[CO/16, KH * KW * CI/4, 16, 4]; one vpdpbusd takes four channels."""

    halves = True
    prefetches = True

    @property
    def step_bytes(self) -> int:
        return 64

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
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

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return nibble_weight(weight) ^ np.uint8(0x88)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, tiles(steps, 2), 16, 4)

    def block_bytes(self, steps: int) -> int:
        return tiles(steps, 2) * 2 * self.step_bytes

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

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
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


class VnniFields(LinearMachine):
    """Packed weights of linear layers, unsigned and in their places in bytes, with four signed activations.

    A field that stays in its place in the byte gives sums too large by a power of two, which a shift at the end takes
    back exactly. The lowest field needs no mask: the products of whole bytes minus those of the other fields are its
    own. That leaves as many units free as the products and masks of a byte need, and weights of 2 bits pass at the rate
    of vpdpbusd alone. Accumulators of all fields stay in registers.
    """

    lanes = 16
    registers = 32

    @property
    def highest(self) -> int:
        return self.coding.greatest << self.coding.bits * (self.coding.fields - 1)

    def depths(self) -> list[int]:
        return [1, 2]

    def needed(self, rows: int, parts: int) -> int:
        return rows * (parts + 1) + (self.coding.fields - 1) + 2

    def prepare(self, shape: LinearShape, inputs: Buffer) -> None:
        field = (1 << self.coding.bits) - 1
        places = [field << j * self.coding.bits for j in range(1, self.coding.fields)]
        self.masks = [let(repeated_byte(place, self.lanes), "mask") for place in places]

    def product(self, acc: Value, u: Value, x: Value) -> Value:
        """acc + four products of each lane."""
        return dot(acc, u, x)

    def sums(self, tile: LinearTile) -> list[list[Value]]:
        s, fields, accs = tile.shape, self.coding.fields, tile.zero_sums()
        with loop(s.trips) as k, unrolled(s.depth) as d:
            step = k * s.depth + d
            xs = tile.quads(step)
            for v in range(s.vectors):
                w = let(tile.packed(step, v), "w")
                chosen = [w, *(w & mask for mask in self.masks)][: s.fields_of(v)]
                for j, field in enumerate(chosen):
                    u = let(field.reinterpret("uint8", 4 * self.lanes), "u")
                    for row, x in zip(accs, xs, strict=True):
                        acc = row[v * fields + j]
                        acc.value = self.product(acc.value, u, x)
        return [[total for v in range(0, s.parts, fields) for total in self._own(row[v : v + fields])] for row in accs]

    def _own(self, accs: list[Register]) -> list[Value]:
        """Each field's own sum, of one byte vector."""
        lowest, *others = (acc.value for acc in accs)
        for other in others:
            lowest = lowest - other
        return [lowest, *(other >> self.coding.bits * (j + 1) for j, other in enumerate(others))]
