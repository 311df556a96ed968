"""How inputs meet weights in a float convolution: the arithmetic of its innermost step, and what it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Pointer, Register, Value
from tvm_mpq.numerics.arrays import FloatArray


class FloatProduct(ABC):
    """One machine's multiply and accumulate on floats.

    width: neighbouring inputs of one step; dtype: of packed weights and of the rows that a step reads; converts:
    whether these rows are a copy in another type, made once per element; lanes: of an accumulator, None where any
    number will do; llvm: LLVM code of what `step` and `converted` call by name.
    """

    width: int = 1
    dtype: str = "float32"
    converts: bool = False
    lanes: int | None = None
    llvm: str | None = None

    @abstractmethod
    def packed(self, weight: FloatArray) -> npt.NDArray[np.generic]:
        """Weights in `dtype`."""

    def converted(self, value: Value) -> Value:
        """A vector of float32 inputs in `dtype`."""
        return value

    @abstractmethod
    def step(self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]]) -> None:
        """acc[position][vector] += inputs[position] * weights[vector], summed over the `width` inputs of a step."""
