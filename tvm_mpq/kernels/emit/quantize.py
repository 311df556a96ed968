"""Between bytes and floats: centering, rounding, and tables of 256 bytes."""

from __future__ import annotations

from tvm_mpq.kernels.emit.code import Buffer, let
from tvm_mpq.kernels.emit.value import Value, clamp, intrinsic, select

_PERMUTE_2 = "llvm.x86.avx512.vpermi2var.qi.512"
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds |y| < 2^22 half to even into the low bits of the float


def centered(values: Value, zero_point: Value) -> Value:
    """float32(values - zero_point), exact; values uint8 or uint16, zero_point int32."""
    return (values.cast("int32") - zero_point).cast("float32")


def rounded(y: Value) -> Value:
    """int32 whose low bytes are those of rint(y), |y| < 2^22; halves go to even."""
    return (y + _MAGIC).reinterpret("int32", y.lanes)


def whole(y: Value) -> tuple[Value, Value]:
    """rint(y) of float32 in 0..2^22, and int32 whose low bits are those of it; halves go to even."""
    bits = let(rounded(y), "bits")
    return bits.reinterpret("float32", y.lanes) - _MAGIC, bits  # as bits: TVM takes (y + c) - c for y


def look_up_128(low: Value, index: Value, high: Value) -> Value:
    """The 128 bytes of two uint8x64, at the lower seven bits of each lane of a third; needs `features.VBMI`."""
    return intrinsic(_PERMUTE_2, "uint8", 64, low, index, high)


class ByteRange:
    """What a tensor of bytes can hold, bound once: its zero point, and its ends as floats counted from there.

    zero_point, low, high: int32 scalars.
    """

    def __init__(self, zero_point: Value, low: Value, high: Value) -> None:
        self.zero_point = let(zero_point.cast("uint8"), "zero_point")
        self.low = let((low - zero_point).cast("float32"), "low")
        self.high = let((high - zero_point).cast("float32"), "high")

    def quantize(self, y: Value) -> Value:
        """clamp(rint(y) + zero_point, low, high) as uint8.

        The clamp comes first, at the same integers, so nothing overflows; a NaN becomes the lower bound.
        """
        return rounded(clamp(y, self.low, self.high)).cast("uint8") + self.zero_point


class ByteTable:
    """256 bytes in four registers, where the CPU offers `features.VBMI`."""

    lanes = 64

    def __init__(self, table: Buffer) -> None:
        self._parts = [let(table.load(self.lanes * i, self.lanes), f"table{i}") for i in range(4)]

    def look_up(self, index: Value) -> Value:
        """table[index] of uint8x64: two permutes of 128 entries and a choice by the top bit."""
        a, b, c, d = self._parts
        return select(index < 128, look_up_128(a, index, b), look_up_128(c, index, d))
