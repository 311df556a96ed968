"""AVX2: vpshufb looks up two tables at once, vpmaddubsw adds the two bits of a weight."""

from __future__ import annotations

from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.tir import Code, intrin

_EIGHT = "T.Broadcast(T.uint16(8), 16)"


class Avx2(Machine):
    """Vectors of two tables."""

    rows = 2
    registers = 16
    byte_channels = tuple(j // 2 + j % 2 * 8 for j in range(16))

    def find(self, tables: str, index: str) -> str:
        return intrin("uint8x32", "llvm.x86.avx2.pshuf.b", tables, index)

    def add_pairs(self, acc: str, found: str) -> str:
        pairs = intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", found, "T.Broadcast(T.int8(1), 32)")
        return f'{acc} + T.reinterpret("uint16x16", {pairs})'

    def count(self, code: Code, counters: list[str], found: str) -> None:
        """The first counter takes pairs of bytes as they are (modulo 2^16), the second the odd bytes."""
        pairs = code.let(f"{found}_p", f'T.reinterpret("uint16x16", {found})')
        code.line(f"{counters[0]} = {counters[0]} + {pairs}")
        code.line(f"{counters[1]} = {counters[1]} + T.shift_right({pairs}, {_EIGHT})")

    def halves(self, counters: list[str]) -> list[str]:
        return [f"{counters[0]} - T.shift_left({counters[1]}, {_EIGHT})", counters[1]]
