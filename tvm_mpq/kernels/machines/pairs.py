"""Products of pairs of 16 bit numbers, two to each sum of 32 bits: what attention on bytes is made of.

Both operands are activations, so nothing is packed beforehand, and bytes less their zero points need nine bits: as
words they are multiplied exactly, whatever the zero points are.
"""

from __future__ import annotations

from tvm_mpq.kernels.emit import Value, intrinsic
from tvm_mpq.kernels.frames.integer_attention import PairMachine
from tvm_mpq.kernels.machines.avx2 import multiply_words

_DOT = {8: "llvm.x86.avx512.vpdpwssd.256", 16: "llvm.x86.avx512.vpdpwssd.512"}
"""By sums of a vector. LLVM has one name for both forms of that of eight, and may write vpmaddwd and an addition."""


class PortablePairs(PairMachine):
    """Plain vector arithmetic, for any target that LLVM knows."""

    lanes = 4

    def add_products(self, acc: Value, left: Value, right: Value) -> Value:
        for half in (range(0, 2 * acc.lanes, 2), range(1, 2 * acc.lanes, 2)):
            acc = acc + left.lanes_of(half).cast("int32") * right.lanes_of(half).cast("int32")
        return acc


class Avx2Pairs(PairMachine):
    """vpmaddwd and an addition."""

    lanes = 8

    def add_products(self, acc: Value, left: Value, right: Value) -> Value:
        return acc + multiply_words(left, right)


class VnniPairs(PairMachine):
    """vpdpwssd, of AVX-VNNI or of AVX-512 VNNI."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def add_products(self, acc: Value, left: Value, right: Value) -> Value:
        return intrinsic(_DOT[self.lanes], "int32", self.lanes, acc, left, right)
