"""AVX-512 BF16: vdpbf16ps on two inputs and two weights of each of sixteen output channels, summed in float32.

TVM turns every bfloat16 value into float32 or uint16 before LLVM sees it, so that no intrinsic with bfloat16 operands
can be called. The few calls therefore stand in LLVM code of their own, which is inlined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, external, let
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.numerics import bfloat16
from tvm_mpq.numerics.arrays import FloatArray

LANES = 16

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


class Bfloat16Pairs(FloatProduct):
    """Weights as the bits of bfloat16; inputs are converted when they are staged."""

    width = 2
    dtype = "uint16"
    converts = True
    lanes = LANES
    llvm = _LLVM

    def packed(self, weight: FloatArray) -> npt.NDArray[np.generic]:
        return bfloat16.to_bits(weight)

    def converted(self, value: Value) -> Value:
        return external(f"mpq_to_bfloat16_{value.lanes}", "uint16", value.lanes, value)

    def step(self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]]) -> None:
        vectors = [let(w.load(2 * LANES).reinterpret("int32", LANES), "w") for w in weights]
        for row, pointer in zip(accs, inputs, strict=True):
            pair = let(pointer.load(2).reinterpret("int32", 1).broadcast(LANES), "pair")
            for acc, w in zip(row, vectors, strict=True):
                acc.value = external("mpq_bfloat16_pairs", "float32", LANES, acc.value, pair, w)
