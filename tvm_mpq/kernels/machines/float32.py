"""Any machine's float32: one fused multiply-add of an input and a vector of weights, however wide vectors are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, let
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.numerics.arrays import FloatArray


class Float32(FloatProduct):
    """Weights as they are."""

    def packed(self, weight: FloatArray) -> npt.NDArray[np.generic]:
        return np.ascontiguousarray(weight, np.float32)

    def step(self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]]) -> None:
        vectors = [let(w.load(acc.lanes), "w") for w, acc in zip(weights, accs[0], strict=True)]
        for row, pointer in zip(accs, inputs, strict=True):
            x = let(pointer.load(1).broadcast(row[0].lanes), "x")
            for acc, w in zip(row, vectors, strict=True):
                acc.value = acc.value + x * w
