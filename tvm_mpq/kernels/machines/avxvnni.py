"""AVX-VNNI: vpdpbusd of 256 bits in its VEX form, for CPUs without AVX-512. Sixteen registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mpq.kernels.emit import Pointer, Register, Value, broadcast4, external, intrinsic, let
from tvm_mpq.kernels.machines.avx2 import HalfBlocks
from tvm_mpq.kernels.machines.vnni512 import VnniFields

_DOT = "llvm.x86.avx512.vpdpbusd.256"
"""LLVM's one name for both forms; without AVX-512 it writes the VEX form."""
VECTOR = 32  # bytes
_WIDEST = 7
"""Positions of a tile whose fourteen accumulators leave registers for one activation and one vector of weights. The
others are operands in memory; LLVM would load them once for all positions and put accumulators aside, so this form of
the instruction is spelt out."""
_LLVM = """
define <8 x i32> @mpq_vpdpbusd(<8 x i32> %acc, <32 x i8> %x, ptr %w) alwaysinline {
  %y = call <8 x i32> asm "{vex} vpdpbusd $3, $2, $0", "=x,0,x,*m"
      (<8 x i32> %acc, <32 x i8> %x, ptr elementtype(<32 x i8>) %w) nounwind memory(argmem: read)
  ret <8 x i32> %y
}
"""
_MASKS = 3
"""Registers for masks of fields; more masks are operands in memory, which costs nothing but a load."""


def dot(acc: Value, x: Value, w: Value) -> Value:
    """acc int32x8 + sums of four products of x uint8x32 and w int8x32."""
    return intrinsic(_DOT, "int32", 8, acc, x, w)


class AvxVnni(HalfBlocks):
    """Weights int8[CO/16, KH * KW * CI/4, 16, 4]; one vpdpbusd takes four channels."""

    llvm = _LLVM

    @property
    def step_bytes(self) -> int:
        return VECTOR

    def registers(self, positions: int, vectors: int) -> int:
        """Accumulators, an activation, and weights; those that one position reads are operands in memory."""
        return positions * vectors + (1 if positions in (1, _WIDEST) else vectors) + 1

    def instructions(self, positions: int, vectors: int) -> float:
        return positions * vectors

    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        held = 1 if len(inputs) == _WIDEST else len(weights)
        ws = [let(w.load(VECTOR), "w") for w in weights[:held]]
        for row, x in zip(accs, inputs, strict=True):
            four = let(broadcast4(x, 8), "x")
            for acc, w in zip(row, ws, strict=False):
                acc.value = dot(acc.value, four, w)
            for acc, pointer in zip(row[held:], weights[held:], strict=True):
                acc.value = external("mpq_vpdpbusd", "int32", 8, acc.value, four, pointer.address)


class AvxVnniFields(VnniFields):
    """The same as with AVX-512, with half the lanes and registers."""

    lanes = 8
    registers = 16

    def needed(self, rows: int, parts: int) -> int:
        return rows * (parts + 1) + min(self.coding.fields - 1, _MASKS) + 2

    def product(self, acc: Value, u: Value, x: Value) -> Value:
        return dot(acc, u, x)
