"""NEON: tbl looks up one table, uadalp adds two bits of a weight, uaddw single ones."""

from __future__ import annotations

from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.tir import Code, intrin


class Neon(Machine):
    """Vectors of one table."""

    rows = 1
    registers = 32
    byte_channels = tuple(range(16))

    def find(self, tables: str, index: str) -> str:
        return intrin("uint8x16", "llvm.aarch64.neon.tbl1", tables, index)

    def add_pairs(self, acc: str, found: str) -> str:
        return f"{acc} + {intrin('uint16x8', 'llvm.aarch64.neon.uaddlp', found)}"

    def count(self, code: Code, counters: list[str], found: str) -> None:
        for half, counter in enumerate(counters):
            eight = f"T.Shuffle([{found}], {list(range(8 * half, 8 * half + 8))})"
            code.line(f'{counter} = {counter} + T.Cast("uint16x8", {eight})')

    def halves(self, counters: list[str]) -> list[str]:
        return counters
