"""AVX2: vpshufb looks up two tables at once, vpmaddubsw adds the two bits of a weight."""

from __future__ import annotations

from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.tir import intrin


class Avx2(Machine):
    """Vectors of two tables."""

    rows = 2
    registers = 16

    def find(self, tables: str, index: str) -> str:
        return intrin("uint8x32", "llvm.x86.avx2.pshuf.b", tables, index)

    def add_pairs(self, acc: str, found: str) -> str:
        pairs = intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", found, "T.Broadcast(T.int8(1), 32)")
        return f'{acc} + T.reinterpret("uint16x16", {pairs})'
