"""Plain vector arithmetic without intrinsics, for any target that LLVM knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.frames.geometry import BLOCK
from tvm_mpq.kernels.packing.dense import blocked_weight
from tvm_mpq.kernels.tir import Code, ramp


def _wide(vector: str) -> str:
    """Bytes through 16 to 32 bits, the form in which LLVM sees a 16 bit product."""
    return f'T.Cast("int32x{BLOCK}", T.Cast("int16x{BLOCK}", {vector}))'


class Scalar(Dot):
    """One input channel times 16 output channels. Weights int8[CO/16, KH * KW * CI, 16, 1]."""

    channels = 1

    @property
    def step_bytes(self) -> int:
        return BLOCK

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        return blocked_weight(weight, 1)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, BLOCK, 1)

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        for j, w in enumerate(weights):
            code.let(f"w{j}", _wide(f"W[{ramp(w, BLOCK)}]"))
        for i, x in enumerate(xs):
            xi = code.let(f"x{i}", f'T.Broadcast(T.Cast("int32", X[{x}]), {BLOCK})')
            for j, acc in enumerate(accs[i]):
                code.line(f"{acc} = {acc} + {xi} * w{j}")


class Elementwise(Dot):
    """Depthwise: 16 input channels times the weights of the same channels. Weights int8[C/16, KH * KW, 16]."""

    channels = BLOCK

    @property
    def step_bytes(self) -> int:
        return BLOCK

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        """The diagonal of a windowed weight: int8[O, KH, KW, 16]."""
        o, kh, kw, _ = weight.shape
        full = np.zeros((-(-o // BLOCK) * BLOCK, kh, kw), np.int8)
        full[:o] = weight[np.arange(o), :, :, np.arange(o) % BLOCK]
        return np.ascontiguousarray(full.reshape(-1, BLOCK, kh * kw).transpose(0, 2, 1))

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, BLOCK)

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        w = code.let("w", _wide(f"W[{ramp(weights[0], BLOCK)}]"))
        for i, x in enumerate(xs):
            code.line(f"{accs[i][0]} = {accs[i][0]} + {_wide(f'X[{ramp(x, BLOCK)}]')} * {w}")
