"""How inputs meet weights in a direct convolution: the arithmetic of its innermost step, and what it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.float_conv.emit import splat, vec
from tvm_mpq.kernels.tir import ramp
from tvm_mpq.numerics import bfloat16


class Product(ABC):
    """One step of the reduction.

    width: neighbouring inputs of one step. dtype: of packed weights and of the rows the step reads. converts: whether
    these rows are a copy in another type, made once per element.
    """

    name: str
    width: int
    dtype: str
    converts: bool

    @abstractmethod
    def packed(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        """Weights in `dtype`."""

    @abstractmethod
    def converted(self, value: str, lanes: int) -> str:
        """A vector of float32 inputs in `dtype`."""

    @abstractmethod
    def inputs(self, buffer: str, index: str, lanes: int) -> str:
        """`width` inputs from `index` on, for every lane."""

    @abstractmethod
    def weights(self, index: str, lanes: int) -> str:
        """`width` weights of each lane from `index` on."""

    def llvm(self) -> str | None:
        """LLVM code of what is called by name."""
        return None

    @abstractmethod
    def sum(self, acc: str, x: str, w: str, lanes: int) -> str:
        """acc + x * w."""


class Float32(Product):
    """One fused multiply-add."""

    name, width, dtype, converts = "f32", 1, "float32", False

    def packed(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        return np.ascontiguousarray(weight, np.float32)

    def converted(self, value: str, lanes: int) -> str:
        return value

    def inputs(self, buffer: str, index: str, lanes: int) -> str:
        return splat(f"{buffer}[{index}]", lanes)

    def weights(self, index: str, lanes: int) -> str:
        return vec("w", index, lanes)

    def sum(self, acc: str, x: str, w: str, lanes: int) -> str:
        return f"{acc} + {x} * {w}"


class Bfloat16Pairs(Product):
    """vdpbf16ps: two bfloat16 inputs times two weights of each of 16 output channels, summed in float32.

    TVM turns every bfloat16 value into float32 or uint16 before LLVM sees it, so that no intrinsic with bfloat16
    operands can be called. The few calls therefore stand in LLVM code of their own, which is inlined.
    """

    name, width, dtype, converts = "bf16", 2, "uint16", True
    LANES = 16

    def packed(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        return bfloat16.to_bits(weight)

    def converted(self, value: str, lanes: int) -> str:
        kind = "uint16" if lanes == 1 else f"uint16x{lanes}"
        return f'T.call_pure_extern("{kind}", "mpq_to_bfloat16_{lanes}", {value})'

    def inputs(self, buffer: str, index: str, lanes: int) -> str:
        return splat(f'T.reinterpret("int32", {buffer}[{ramp(index, 2)}])', lanes)

    def weights(self, index: str, lanes: int) -> str:
        return f'T.reinterpret("int32x{lanes}", w[{ramp(index, 2 * lanes)}])'

    def sum(self, acc: str, x: str, w: str, lanes: int) -> str:
        return f'T.call_pure_extern("float32x{lanes}", "mpq_bfloat16_pairs", {acc}, {x}, {w})'

    def llvm(self) -> str:
        return _LLVM


_CONVERT = """
define {short} @mpq_to_bfloat16_{n}({float} %x) alwaysinline {{
  %y = fptrunc {float} %x to {bfloat}
  %z = bitcast {bfloat} %y to {short}
  ret {short} %z
}}
"""
_LLVM = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @mpq_bfloat16_pairs(<16 x float> %acc, <16 x i32> %x, <16 x i32> %w) alwaysinline {
  %a = bitcast <16 x i32> %x to <32 x bfloat>
  %b = bitcast <16 x i32> %w to <32 x bfloat>
  %y = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %acc, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %y
}
""" + "".join(
    _CONVERT.format(n=n, **{kind: kind if n == 1 else f"<{n} x {kind}>" for kind in ("float", "bfloat")},
                    short="i16" if n == 1 else f"<{n} x i16>")
    for n in (1, 2, 4, 8, 16)
)  # fmt: skip

FLOAT32 = Float32()
BFLOAT16 = Bfloat16Pairs()
