"""AVX-512 VNNI: vpdpbusd of packed weights, unsigned and in their places, with four signed activations.

A field that stays in its place in the byte gives sums too large by a power of two, which a shift at the end takes back
exactly. The lowest field needs no mask: the products of whole bytes minus those of the other fields are its own. That
leaves as many units free as the products and masks of a byte need, and weights of 2 bits pass at the rate of vpdpbusd
alone.
"""

from __future__ import annotations

from tvm_mpq.kernels.packed_linear.machine import Machine, accumulators, load_weights, quads, repeated
from tvm_mpq.kernels.packed_linear.shape import LinearShape
from tvm_mpq.kernels.tir import Code, intrin

_DOT = "llvm.x86.avx512.vpdpbusd.512"


class Vnni(Machine):
    """Accumulators of all fields stay in registers."""

    lanes = 16
    registers = 32

    def depths(self) -> list[int]:
        return [1, 2]

    def needed(self, rows: int, parts: int) -> int:
        return rows * (parts + 1) + (self.coding.fields - 1) + 2

    def header(self, code: Code) -> None:
        field = (1 << self.coding.bits) - 1
        for j in range(1, self.coding.fields):
            code.let(f"v_field{j}", f"T.Broadcast(T.int32({repeated(field << j * self.coding.bits)}), 16)")

    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        fields = self.coding.fields
        accs = accumulators(code, shape)
        with code.block(f"for k in range({shape.trips}):"), code.block(f"for d in T.unroll({shape.depth}):"):
            step = f"k * {shape.depth} + d"
            xs = quads(code, shape, step)
            for v in range(shape.vectors):
                w = code.let(f"w{v}", load_weights(code, shape, step, v, ahead))
                for j in range(shape.fields_of(v)):
                    chosen = f"T.bitwise_and({w}, v_field{j})" if j else w
                    u = code.let(f"u{v}_{j}", f'T.reinterpret("uint8x64", {chosen})')
                    for row, x in zip(accs, xs, strict=True):
                        acc = row[v * fields + j]
                        code.line(f"{acc} = {intrin('int32x16', _DOT, acc, u, x)}")
        return [[total for v in range(0, len(row), fields) for total in self._own(row[v : v + fields])] for row in accs]

    def _own(self, accs: list[str]) -> list[str]:
        """Each field's own sum, of one byte vector."""
        others = accs[1:]
        shifts = [f"T.Broadcast({self.coding.bits * (j + 1)}, 16)" for j in range(len(others))]
        shifted = [f"T.shift_right({acc}, {shift})" for acc, shift in zip(others, shifts, strict=True)]
        return [" - ".join(accs), *shifted]
