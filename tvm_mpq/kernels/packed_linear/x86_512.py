"""AVX-512 VNNI: vpdpbusd of packed weights, unsigned and in their places, with four signed activations.

One field needs no mask: the products of whole bytes minus those of the other fields are its own. That leaves as many
units free as the products and masks of a byte need, and weights of 2 bits pass at the rate of vpdpbusd alone.
"""

from __future__ import annotations

from tvm_mpq.kernels.packed_linear.coding import Coding
from tvm_mpq.kernels.packed_linear.machine import Machine, activations, packed_weights, repeated
from tvm_mpq.kernels.packed_linear.shape import LinearShape
from tvm_mpq.kernels.tir import Code, intrin, ramp

_DOT = "llvm.x86.avx512.vpdpbusd.512"


class Vnni(Machine):
    """Accumulators of all fields stay in registers."""

    lanes = 16
    registers = 32

    def depths(self, coding: Coding) -> list[int]:
        return [1, 2]

    def needed(self, coding: Coding, rows: int, parts: int) -> int:
        return rows * (parts + 1) + (coding.fields - 1) + 2

    def header(self, code: Code, coding: Coding) -> None:
        field = (1 << coding.bits) - 1
        for j in range(1, coding.fields):
            code.let(f"v_field{j}", f"T.Broadcast(T.int32({repeated(field << j * coding.bits)}), 16)")

    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        fields, bits = shape.coding.fields, shape.coding.bits
        accs = [[f"a{r}_{i}[{ramp(0, 16)}]" for i in range(shape.parts)] for r in range(shape.rows)]
        for r, row in enumerate(accs):
            for i, acc in enumerate(row):
                code.line(f'a{r}_{i} = T.alloc_buffer((16,), "int32")')
                code.line(f"{acc} = T.Broadcast(0, 16)")
        with code.block(f"for k in range({shape.trips}):"):
            with code.block(f"for d in T.unroll({shape.depth}):"):
                step = f"k * {shape.depth} + d"
                xs = activations(code, shape, step)
                for v, w in enumerate(packed_weights(code, shape, step, ahead)):
                    for j in range(shape.fields_of(v)):
                        chosen = f"T.bitwise_and({w}, v_field{j})" if j else w
                        u = code.let(f"u{v}_{j}", f'T.reinterpret("uint8x64", {chosen})')
                        for row, x in zip(accs, xs, strict=True):
                            acc = row[v * fields + j]
                            code.line(f"{acc} = {intrin('int32x16', _DOT, acc, u, x)}")
        out = []
        for row in accs:
            own = []
            for v in range(shape.vectors):
                whole, *others = row[v * fields :][:fields]
                own.append(" - ".join([whole, *others]))
                own += [f"T.shift_right({acc}, T.Broadcast({bits * (j + 1)}, 16))" for j, acc in enumerate(others)]
            out.append(own)
        return out
