"""AVX-512 VBMI: weights of one bit choose sums of activations from tables of 128 bytes.

A table serves 20 input channels: for each of four groups of five the sum of every subset. A byte of weights is a group
and a subset of it; vpermi2b looks 64 of them up, which are 16 output channels. Activations of more than five bits are
looked up in two halves of their bits, so that sums stay in bytes. vpdpbusd adds the four bytes of a channel, those of
the upper half times 16. Adding looked-up bytes of several steps first would save some of these, but tables of several
steps do not stay in registers.
"""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.emit import Buffer, Value, alloc, constant, let, loop, shuffle, zeros
from tvm_mpq.kernels.emit.quantize import look_up_128
from tvm_mpq.kernels.frames.linear import LinearMachine, LinearTile
from tvm_mpq.kernels.machines.vnni512 import dot
from tvm_mpq.kernels.packing.linear import QUAD, ByteCoding, LinearShape, unsigned_codes
from tvm_mpq.numerics.arrays import ByteArray, Int8Array

GROUP = 5
"""Activations of which a byte of weights chooses a subset."""
TABLE_BYTES = QUAD << GROUP
_HALF_TABLE = TABLE_BYTES // 2
_WHOLE_BITS = 5  # of activations that are looked up in one piece
_LOWER_BITS = 4  # of those that are looked up in two
_LOAD = 32  # activations loaded for a table

INDICES = ByteCoding(bits=8, step=2, offset=1, greatest=1, inputs=QUAD * GROUP)


class SubsetLookup(LinearMachine):
    """One row of unsigned activations of so many bits."""

    lanes = 16
    registers = 32
    sign = 0

    def __init__(self, activation_bits: int) -> None:
        super().__init__(INDICES)
        self.pieces = 1 if activation_bits <= _WHOLE_BITS else 2

    def depths(self) -> list[int]:
        return [1]

    def needed(self, rows: int, parts: int) -> int:
        return rows * (parts + 2 * self.pieces) + 2 * self.pieces + 2

    def codes(self, weight: Int8Array, shape: LinearShape) -> ByteArray:
        groups = unsigned_codes(weight, shape).reshape(len(weight), shape.steps, QUAD, GROUP)
        subsets = (groups << np.arange(GROUP, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
        return np.asarray(subsets + (np.arange(QUAD) << GROUP), np.uint8)

    def input_bytes(self, shape: LinearShape) -> int:
        """Tables."""
        return shape.steps * self.pieces * TABLE_BYTES

    def prepare(self, shape: LinearShape, inputs: Buffer) -> None:
        """All tables, those of two pieces side by side."""
        self.tables = alloc(self.input_bytes(shape), "uint8")
        none = let(zeros(_LOAD, "uint8"), "none")
        with loop(shape.steps) as t:
            x = let(inputs.load(t * INDICES.inputs, _LOAD), "x")
            pieces = [x] if self.pieces == 1 else [let(x & 15, "lower"), let(x >> _LOWER_BITS, "upper")]
            for p, piece in enumerate(pieces):
                for half, members in enumerate(subset_members()):
                    first, *terms = (shuffle([piece, none], places) for places in members)
                    self.tables.store(self._half_table(t, p, half), sum(terms, first))

    def _half_table(self, step: Value, piece: int, half: int) -> Value:
        """Where half a table begins."""
        return (step * self.pieces + piece) * TABLE_BYTES + half * _HALF_TABLE

    def sums(self, tile: LinearTile) -> list[list[Value]]:
        s, (accs,) = tile.shape, tile.zero_sums()
        with loop(s.steps) as k:
            tables = [
                [let(self.tables.load(self._half_table(k, p, half), _HALF_TABLE), "table") for half in (0, 1)]
                for p in range(self.pieces)
            ]
            for i, acc in enumerate(accs):
                index = let(tile.packed(k, i).reinterpret("uint8", 64), "index")
                for p, (low, high) in enumerate(tables):
                    found = look_up_128(low, index, high)
                    acc.value = dot(acc.value, found, constant(1 << p * _LOWER_BITS, "int8", 64))
        return [[acc.value for acc in accs]]


def subset_members() -> list[list[list[int]]]:
    """For each half of a table, and each of five members of a group: where its bytes find the member.

    Positions are those of 20 activations; `_LOAD` stands for a zero, where the subset lacks the member.
    """
    entries = [(q, e) for q in range(QUAD) for e in range(1 << GROUP)]
    members = [[q * GROUP + j if e >> j & 1 else _LOAD for q, e in entries] for j in range(GROUP)]
    return [[places[start : start + _HALF_TABLE] for places in members] for start in (0, _HALF_TABLE)]
