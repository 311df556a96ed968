"""AVX2 without VNNI: vpmaddubsw of packed weights with signed activations, added up in 16 bits, then in 32.

Fields of the low half of a byte are masked where they are, those of the high half after a shift by four, so that no
field is worth more than 15: two products of whatever bytes fit 16 bits, and so do sums of several steps.
"""

from __future__ import annotations

from tvm_mpq.kernels.packed_linear.coding import SIGN_BIT, Coding
from tvm_mpq.kernels.packed_linear.machine import Machine, accumulators, load_weights, quads, repeated
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

    def depths(self) -> list[int]:
        return [steps_limit(self.coding)]

    def needed(self, rows: int, parts: int) -> int:
        return rows * (parts + 1) + _HALF // self.coding.bits + 3

    def header(self, code: Code) -> None:
        field = (1 << self.coding.bits) - 1
        for j in range(_HALF // self.coding.bits):
            code.let(f"v_field{j}", f"T.Broadcast(T.int32({repeated(field << j * self.coding.bits)}), 8)")

    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        half = _HALF // self.coding.bits
        accs = accumulators(code, shape)
        words = [[f"c{r}_{i}[{ramp(0, 16)}]" for i in range(shape.parts)] for r in range(shape.rows)]
        for r in range(shape.rows):
            for i in range(shape.parts):
                code.line(f'c{r}_{i} = T.alloc_buffer((16,), "int16")')
        with code.block(f"for k in range({shape.trips}):"):
            for word in (word for row in words for word in row):
                code.line(f"{word} = T.Broadcast(T.int16(0), 16)")
            with code.block(f"for d in range({shape.depth}):"):
                self._step(code, shape, ahead, words)
            for row, counted in zip(accs, words, strict=True):
                for acc, word in zip(row, counted, strict=True):
                    wide = intrin("int32x8", _MADD_WORDS, word, "T.Broadcast(T.int16(1), 16)")
                    code.line(f"{acc} = {acc} + {wide}")
        shifts = [f"T.Broadcast({self.coding.bits * (i % half)}, 8)" for i in range(shape.parts)]
        return [[f"T.shift_right({acc}, {shift})" for acc, shift in zip(row, shifts, strict=True)] for row in accs]

    def _step(self, code: Code, shape: LinearShape, ahead: int, words: list[list[str]]) -> None:
        half = _HALF // self.coding.bits
        step = f"k * {shape.depth} + d"
        xs = quads(code, shape, step)
        for v in range(shape.vectors):
            w = code.let(f"w{v}", load_weights(code, shape, step, v, ahead))
            for j in range(shape.fields_of(v)):
                if j == half:
                    w = code.let(f"h{v}", f"T.shift_right({w}, T.Broadcast({_HALF}, 8))")
                u = code.let(f"u{v}_{j}", f'T.reinterpret("uint8x32", T.bitwise_and({w}, v_field{j % half}))')
                for row, x in zip(words, xs, strict=True):
                    word = row[v * self.coding.fields + j]
                    code.line(f"{word} = {word} + {intrin('int16x16', _MADD_BYTES, u, x)}")
