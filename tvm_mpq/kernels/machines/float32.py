"""Any machine's float32: one fused multiply-add of an input and a vector of weights, however wide vectors are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, let
from tvm_mpq.kernels.frames.float_product import FloatProduct


class Float32(FloatProduct):
    """Weights as they are."""

    def packed(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        return np.ascontiguousarray(weight, np.float32)

    def step(self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]]) -> None:
        vectors = [let(w.load(acc.lanes), "w") for w, acc in zip(weights, accs[0], strict=True)]
        for row, pointer in zip(accs, inputs, strict=True):
            x = let(pointer.load(1).broadcast(row[0].lanes), "x")
            for acc, w in zip(row, vectors, strict=True):
                acc.value = acc.value + x * w


def native_lanes(features: frozenset[str]) -> int:
    """Widest float32 vector of the machine."""
    if "avx512f" in features:
        return 16
    return 8 if "avx2" in features or "avx" in features else 4


def vector_registers(features: frozenset[str]) -> int:
    """32 with AVX-512 and on ARM and RISC-V, 16 on older x86."""
    x86 = "sse2" in features
    return 16 if x86 and "avx512f" not in features else 32
