"""NEON: tbl looks up one table, uadalp adds the two bits of a weight."""

from __future__ import annotations

from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.tir import intrin


class Neon(Machine):
    """Vectors of one table."""

    rows = 1
    registers = 32

    def find(self, tables: str, index: str) -> str:
        return intrin("uint8x16", "llvm.aarch64.neon.tbl1", tables, index)

    def add_pairs(self, acc: str, found: str) -> str:
        return f"{acc} + {intrin('uint16x8', 'llvm.aarch64.neon.uaddlp', found)}"
