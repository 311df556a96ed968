"""ARM's packed weights of linear layers: udot of fields in their places, and without it smlal in 16 bits."""

from __future__ import annotations

from tvm_mpq.kernels.emit import Buffer, Index, Register, Value, clear, intrinsic, let, loop, repeated_byte
from tvm_mpq.kernels.frames.linear import LinearMachine, LinearTile
from tvm_mpq.kernels.machines.neon import eighths
from tvm_mpq.kernels.machines.vnni512 import VnniFields
from tvm_mpq.kernels.packing.linear import SIGN_BIT, LinearShape

_HALF = 4  # bits of half a byte
_DEEPEST = 16
"""Steps that sums in 16 bits take at most."""


class DotFields(VnniFields):
    """As with AVX-512 VNNI; udot takes unsigned activations, as they are stored."""

    lanes = 4
    registers = 32
    sign = 0

    def product(self, acc: Value, u: Value, x: Value) -> Value:
        return intrinsic("llvm.aarch64.neon.udot", "int32", 4, acc, u, x.reinterpret("uint8", x.lanes))


class NeonFields(LinearMachine):
    """smlal of fields with signed activations, added up in 16 bits, then in 32 by sadalp.

    Fields of the low half of a byte are masked where they are, those of the high half after a shift by four, so that no
    field is worth more than 15. A vector of weights is four channels of four inputs; its halves have sums of their own,
    which are joined at the end.
    """

    lanes = 4
    registers = 32

    @property
    def highest(self) -> int:
        return self.coding.greatest << (_HALF - self.coding.bits)

    @property
    def steps_limit(self) -> int:
        """Steps whose products 16 bits hold: each lane takes one of a step, at worst of -128 and the greatest field."""
        return 32768 // (SIGN_BIT * self.highest)

    def depths(self) -> list[int]:
        return [min(_DEEPEST, self.steps_limit)]

    def needed(self, rows: int, parts: int) -> int:
        """Sums of 16 bits stay in registers, those of 32 bits are touched once a trip."""
        return rows * (2 * parts + 1) + self._half + 3

    @property
    def _half(self) -> int:
        """Fields of half a byte."""
        return _HALF // self.coding.bits

    def prepare(self, shape: LinearShape, inputs: Buffer) -> None:
        field = (1 << self.coding.bits) - 1
        self.masks = [let(repeated_byte(field << j * self.coding.bits, 4), "mask") for j in range(self._half)]

    def sums(self, tile: LinearTile) -> list[list[Value]]:
        s = tile.shape
        accs = _sums(s, 4, "int32")
        words = _sums(s, 8, "int16")
        with loop(s.trips) as k:
            _clear(words)
            with loop(s.depth) as d:
                self._step(tile, k * s.depth + d, words)
            for row, counted in zip(accs, words, strict=True):
                for halves, narrow in zip(row, counted, strict=True):
                    for acc, word in zip(halves, narrow, strict=True):
                        pairs = intrinsic("llvm.aarch64.neon.saddlp", "int32", 4, word.value)
                        acc.value = acc.value + pairs
        return [[self._joined(halves, i) for i, halves in enumerate(row)] for row in accs]

    def _joined(self, halves: list[Register], part: int) -> Value:
        """The sum of each of four channels, from pairs of its lanes."""
        low, high = (half.value for half in halves)
        total = let(intrinsic("llvm.aarch64.neon.addp", "int32", 4, low, high), "total")
        return total >> self.coding.bits * (part % self._half)

    def _step(self, tile: LinearTile, step: Index, words: list[list[list[Register]]]) -> None:
        xs = [eighths([x]) for x in tile.quads(step)]
        for v in range(tile.shape.vectors):
            w = let(tile.packed(step, v), "w")
            for j in range(tile.shape.fields_of(v)):
                if j == self._half:
                    w = let(w >> _HALF, "high")
                field = let((w & self.masks[j % self._half]).reinterpret("int8", 16), "field")
                for row, x in zip(words, xs, strict=True):
                    for word, u, s in zip(row[v * self.coding.fields + j], eighths([field]), x, strict=True):
                        word.value = word.value + intrinsic("llvm.aarch64.neon.smull", "int16", 8, u, s)


def _sums(s: LinearShape, lanes: int, dtype: str) -> list[list[list[Register]]]:
    """Zeros for each row, part and half of a vector."""
    sums = [[[Register(lanes, dtype) for _ in range(2)] for _ in range(s.parts)] for _ in range(s.rows)]
    _clear(sums)
    return sums


def _clear(sums: list[list[list[Register]]]) -> None:
    for row in sums:
        clear(row)
