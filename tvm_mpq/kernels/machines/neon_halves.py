"""ARMv8.2 with fp16 arithmetic: fmla of eight halves, an input times the weights of eight output channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value, constant, fma, intrinsic, let
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.numerics import float16
from tvm_mpq.numerics.arrays import FloatArray

LANES = 8


class NeonHalves(FloatProduct):
    """Weights in halves; inputs become halves when they are staged. `step` adds to accumulators of halves."""

    dtype = "float16"
    converts = True
    lanes = LANES

    def packed(self, weight: FloatArray) -> npt.NDArray[np.generic]:
        return float16.to_halves(weight)

    def converted(self, value: Value) -> Value:
        limit = constant(float16.LARGEST, "float32", value.lanes)
        low = intrinsic(
            "llvm.maximum", "float32", value.lanes, value, constant(-float16.LARGEST, "float32", value.lanes)
        )
        return intrinsic("llvm.minimum", "float32", value.lanes, low, limit).cast("float16")

    def step(self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]]) -> None:
        vectors = [let(w.load(LANES), "w") for w in weights]
        for row, pointer in zip(accs, inputs, strict=True):
            x = let(pointer.load(1).broadcast(LANES), "x")
            for acc, w in zip(row, vectors, strict=True):
                acc.value = fma(x, w, acc.value)
