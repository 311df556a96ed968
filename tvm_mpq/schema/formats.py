"""How numbers are computed with and stored: precisions, ranges of tensors, padded channels."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from tvm_mpq.errors import InvalidValueError

FLOAT_BITS = 32
"""The storage format of a float32 tensor, where an integer tensor's format is its bits."""


class DType(str, enum.Enum):
    """The numbers that an operator computes with."""

    INT = "int"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class LeftOutReason(str, enum.Enum):
    """Why a precision is no candidate of an operator."""

    SAME_CODE = "same code"  # what it would run, more bits run too
    SLOWER = "floats as fast"  # fewer bits save no time
    NO_KERNEL = "no kernel"


_FLOAT_STORAGE_BITS = {DType.FP32: 32, DType.FP16: 16, DType.BF16: 16}


@dataclass(frozen=True, order=True)
class Precision:
    """The numbers an operator computes with: weight and activation bits of integers, or a float format.

    Every kind of float operator reads and writes float32 tensors; bf16 and fp16 round operands inside
    (numerics/bfloat16, numerics/float16). The bits of a float are those of its format.

    >>> p = Precision.parse("w4a8")
    >>> p.weight_bits, p.activation_bits, p.is_float
    (4, 8, False)
    >>> str(Precision(8, 8)), str(Precision.parse("fp32")), Precision.of_floats(DType.FP16) == BF16
    ('w8a8', 'fp32', False)
    """

    weight_bits: int
    activation_bits: int
    dtype: DType = DType.INT

    def __post_init__(self) -> None:
        bits = self.weight_bits, self.activation_bits
        if self.is_float:
            own = _FLOAT_STORAGE_BITS[self.dtype]
            if bits != (own, own):
                raise InvalidValueError(f"{self.dtype.value} has {own} bits for weights and activations (got {bits})")
        elif not all(1 <= b <= 8 for b in bits):
            raise InvalidValueError(
                f"weight and activation bits must be in [1, 8] (got w{self.weight_bits}a{self.activation_bits})"
            )

    @property
    def is_float(self) -> bool:
        return self.dtype is not DType.INT

    @classmethod
    def of_floats(cls, dtype: DType) -> Precision:
        """The precision of a float format."""
        bits = _FLOAT_STORAGE_BITS[dtype]
        return cls(bits, bits, dtype)

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read `w<1..8>a<1..8>`, `fp32`, `bf16` or `fp16`. Raises InvalidValueError on anything else."""
        for dtype in _FLOAT_STORAGE_BITS:
            if text == dtype.value:
                return cls.of_floats(dtype)
        match = re.fullmatch(r"w(\d)a(\d)", text)
        if not match:
            raise InvalidValueError(f"a precision is fp32, bf16, fp16 or w<bits>a<bits>, such as w4a8 (got {text!r})")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return self.dtype.value if self.is_float else f"w{self.weight_bits}a{self.activation_bits}"


FP32 = Precision.of_floats(DType.FP32)
BF16 = Precision.of_floats(DType.BF16)
FP16 = Precision.of_floats(DType.FP16)
W8A8 = Precision(8, 8)
W4A8 = Precision(4, 8)


@dataclass(frozen=True)
class TensorQuant:
    """real = (q - zero_point) * scale, q in [0, 2^bits - 1], stored one value a byte."""

    bits: int
    scale: float  # exactly representable as float32
    zero_point: int


def padded_channels(channels: int) -> int:
    """Channels as stored in an integer tensor: up to 4 -> 4 (first layers), else the next multiple of 16.

    The padded cells hold anything; consumers give them zero weights. One 16 byte lane group is one output vector of a
    512 bit int32 accumulator, so stores never need a mask.
    """
    return 4 if channels <= 4 else -(-channels // 16) * 16
