"""What ONNX means by integers that stand for real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tvm_mpq.schema import TensorQuant

RealArray = npt.NDArray[np.float32]
CodeArray = npt.NDArray[np.int32]

_BYTES = {"uint8": 0, "int8": 128}
"""Types of eight bits, and what brings their integers to 0..255."""


@dataclass(frozen=True, eq=False)
class Affine:
    """real = (q - zero) * scale.

    scale, zero : float32[] and int32[], or of one axis along `axis`, or, with `block` > 0, of the tensor's rank with
        one value for `block` elements along `axis`.
    dtype : name of the integers' type.
    """

    scale: RealArray
    zero: CodeArray
    dtype: str
    axis: int = 1
    block: int = 0

    def equals(self, other: Affine) -> bool:
        same = self.dtype == other.dtype and self.axis == other.axis if self.scale.size > 1 else True
        return same and np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)

    def reals(self, codes: npt.NDArray[Any]) -> RealArray:
        """What the integers stand for: the difference is exact, the product is rounded once, to float32."""
        scale, zero = self._along(codes.shape, self.scale), self._along(codes.shape, self.zero)
        reals: RealArray = ((codes.astype(np.int32) - zero).astype(np.float32) * scale).astype(np.float32)
        return reals

    def codes(self, reals: RealArray) -> CodeArray:
        """Rounded half to even, and cut to the type's range."""
        scale, zero = self._along(reals.shape, self.scale), self._along(reals.shape, self.zero)
        codes: CodeArray = np.clip(np.rint(reals / scale) + zero, *self.limits).astype(np.int32)
        return codes

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest integer of the type, of any number of bits."""
        signed, bits = not self.dtype.startswith("u"), int(self.dtype.split("int")[1])
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)

    @property
    def element_type(self) -> int:
        """The type as ONNX counts types."""
        return int(onnx.TensorProto.DataType.Value(self.dtype.upper()))

    def _along(self, shape: tuple[int, ...], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As `values` are broadcast against a tensor of this shape."""
        if values.size == 1:
            return values.reshape(())
        axis = self.axis % len(shape)
        if self.block:
            return np.repeat(values, self.block, axis).take(np.arange(shape[axis]), axis)
        return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])

    @property
    def tensor_quant(self) -> TensorQuant | None:
        """As our activations have it: one unsigned byte; None where the file's are others."""
        if self.scale.size > 1 or self.dtype not in _BYTES:
            return None
        return TensorQuant(8, float(self.scale.reshape(-1)[0]), int(self.zero.reshape(-1)[0]) + _BYTES[self.dtype])

    @property
    def symmetric(self) -> bool:
        """Whether all integers are within -128..127 once the zero is taken off, as our weights have it."""
        return self.dtype in _BYTES and not self.block and bool((self.zero + _BYTES[self.dtype] == 128).all())
