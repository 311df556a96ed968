"""AVX-512 VNNI: vpdpbusd on four input channels broadcast to sixteen output channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.pack import blocked_weight, nibble_weight
from tvm_mpq.kernels.tir import Code, intrin, ramp

_DOT = "llvm.x86.avx512.vpdpbusd.512"
_DOT_HALF = "llvm.x86.avx512.vpdpbusd.256"


def broadcast4(x: str, lanes: int) -> str:
    """Four bytes at `x` repeated to 4 * lanes bytes."""
    word = f'T.reinterpret("int32", X[{ramp(x, 4)}])'
    return f'T.reinterpret("uint8x{4 * lanes}", T.Broadcast({word}, {lanes}))'


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

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        whole = len(weights) - half
        ws = [code.let(f"w{j}", f"W[{ramp(w, 64 if j < whole else 32)}]") for j, w in enumerate(weights)]
        for i, x in enumerate(xs):
            xi = code.let(f"x{i}", broadcast4(x, 16 if whole else 8))
            for acc, w in zip(accs[i][:whole], ws, strict=False):
                code.line(f"{acc} = {intrin('int32x16', _DOT, acc, xi, w)}")
            if half:
                low = f"T.Shuffle([{xi}], {list(range(32))})" if whole else xi
                code.line(f"{accs[i][-1]} = {intrin('int32x8', _DOT_HALF, accs[i][-1], low, ws[-1])}")


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

    def unpack(self, code: Code, block: str, target: str, count: int, block_bytes: int) -> None:
        eight = "T.Broadcast(T.uint8(8), 64)"
        nibbles = (
            "T.bitwise_and(pair, T.Broadcast(T.uint8(15), 64))",
            "T.shift_right(pair, T.Broadcast(T.uint8(4), 64))",
        )
        with code.block(f"for u in range({count * block_bytes // 128}):"):
            code.let("pair", f"P[{ramp(f'{block} * {block_bytes // 2} + u * 64', 64)}]")
            for step, nibble in enumerate(nibbles):
                at = ramp(f"{target} + u * 128 + {64 * step}", 64)
                code.line(f'W[{at}] = T.reinterpret("int8x64", {nibble} - {eight})')


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

    def header(self, code: Code) -> None:
        code.let("v_nibbles", "T.Broadcast(T.int32(-252645136), 16)")  # 0xf0f0f0f0

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        for j, w in enumerate(weights):
            code.let(f"p{j}", f'T.reinterpret("int32x16", W[{ramp(w, 64)}])')
        for part, source in enumerate(("T.shift_left({}, T.Broadcast(4, 16))", "{}")):
            ws = [f"w{part}_{j}" for j in range(len(weights))]
            for j, name in enumerate(ws):
                code.let(name, f'T.reinterpret("int8x64", T.bitwise_and({source.format(f"p{j}")}, v_nibbles))')
            for i, x in enumerate(xs):
                xi = code.let(f"x{part}_{i}", broadcast4(f"{x} + {4 * part}", 16))
                for acc, w in zip(accs[i], ws, strict=True):
                    code.line(f"{acc} = {intrin('int32x16', _DOT, acc, xi, w)}")
