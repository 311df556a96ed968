"""AVX2 without VNNI: vpmaddubsw of packed weights with signed activations, added up in 16 bits, then in 32.

Fields of the low half of a byte are masked where they are, those of the high half after a shift by four, so that no
field is worth more than 15: two products of whatever byte pairs fit 16 bits, and so do sums of several steps.
"""

from __future__ import annotations

from tvm_mpq.kernels.packed_linear.coding import SIGN_BIT, Coding
from tvm_mpq.kernels.packed_linear.machine import Machine, activations, packed_weights, repeated
from tvm_mpq.kernels.packed_linear.shape import LinearShape
from tvm_mpq.kernels.tir import Code, intrin, ramp

_MADD_BYTES = "llvm.x86.avx2.pmadd.ub.sw"
_MADD_WORDS = "llvm.x86.avx2.pmadd.wd"
_HALF = 4  # bits


def steps_limit(coding: Coding) -> int:
    """Steps whose products 16 bits hold: two products of the least activation, -128, and the greatest field in place.

    The sum may be -32768 exactly; positive ones are smaller, because activations end at 127.
    """
    highest = coding.greatest << (_HALF - coding.bits)
    return 32768 // (2 * SIGN_BIT * highest)


class Avx2(Machine):
    """Accumulators of 16 bits stay in registers, those of 32 bits are touched once a trip."""

    lanes = 8
    registers = 16

    def depths(self, coding: Coding) -> list[int]:
        return [steps_limit(coding)]

    def needed(self, coding: Coding, rows: int, parts: int) -> int:
        return rows * (parts + 1) + _HALF // coding.bits + 3

    def header(self, code: Code, coding: Coding) -> None:
        field = (1 << coding.bits) - 1
        for j in range(_HALF // coding.bits):
            code.let(f"v_field{j}", f"T.Broadcast(T.int32({repeated(field << j * coding.bits)}), 8)")

    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        fields, bits = shape.coding.fields, shape.coding.bits
        half = _HALF // bits
        places = [(r, i) for r in range(shape.rows) for i in range(shape.parts)]
        totals = {(r, i): f"a{r}_{i}[{ramp(0, 8)}]" for r, i in places}
        words = {(r, i): f"c{r}_{i}[{ramp(0, 16)}]" for r, i in places}
        for r, i in places:
            code.line(f'a{r}_{i} = T.alloc_buffer((8,), "int32")')
            code.line(f'c{r}_{i} = T.alloc_buffer((16,), "int16")')
            code.line(f"{totals[r, i]} = T.Broadcast(0, 8)")
        with code.block(f"for k in range({shape.trips}):"):
            for word in words.values():
                code.line(f"{word} = T.Broadcast(T.int16(0), 16)")
            with code.block(f"for d in range({shape.depth}):"):
                step = f"k * {shape.depth} + d"
                xs = activations(code, shape, step)
                for v, w in enumerate(packed_weights(code, shape, step, ahead)):
                    for j in range(shape.fields_of(v)):
                        if j == half:
                            w = code.let(f"h{v}", f"T.shift_right({w}, T.Broadcast({_HALF}, 8))")
                        chosen = f"T.bitwise_and({w}, v_field{j % half})"
                        u = code.let(f"u{v}_{j}", f'T.reinterpret("uint8x32", {chosen})')
                        for r, x in enumerate(xs):
                            word = words[r, v * fields + j]
                            code.line(f"{word} = {word} + {intrin('int16x16', _MADD_BYTES, u, x)}")
            for place in places:
                wide = intrin("int32x8", _MADD_WORDS, words[place], "T.Broadcast(T.int16(1), 16)")
                code.line(f"{totals[place]} = {totals[place]} + {wide}")
        return [
            [f"T.shift_right({totals[r, i]}, T.Broadcast({bits * (i % half)}, 8))" for i in range(shape.parts)]
            for r in range(shape.rows)
        ]
