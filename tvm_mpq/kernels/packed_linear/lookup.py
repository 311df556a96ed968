"""AVX-512 VBMI: weights of one bit choose sums of activations from tables of 128 bytes.

A table serves 20 input channels: for each of four groups of five the sum of every subset. A byte of weights is a group
and a subset of it; vpermi2b looks 64 of them up, which are 16 output channels. Activations of more than five bits are
looked up in two halves of their bits, so that sums stay in bytes. vpdpbusd adds the four bytes of a channel, those of
the upper half times 16. Adding looked-up bytes of several steps first would save some of these, but tables of several
steps do not stay in registers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packed_linear.coding import Coding
from tvm_mpq.kernels.packed_linear.machine import Machine, accumulators, load_weights
from tvm_mpq.kernels.packed_linear.pack import Bytes, unsigned_codes
from tvm_mpq.kernels.packed_linear.shape import QUAD, LinearShape
from tvm_mpq.kernels.tir import Code, intrin, ramp

GROUP = 5
"""Activations of which a byte of weights chooses a subset."""
TABLE_BYTES = QUAD << GROUP
_HALF_TABLE = TABLE_BYTES // 2
_WHOLE_BITS = 5  # of activations that are looked up in one piece
_LOWER_BITS = 4  # of those that are looked up in two
_LOAD = 32  # activations loaded for a table
_PERMUTE = "llvm.x86.avx512.vpermi2var.qi.512"
_DOT = "llvm.x86.avx512.vpdpbusd.512"

INDICES = Coding(bits=8, step=2, offset=1, greatest=1, inputs=QUAD * GROUP)


class Lookup(Machine):
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

    def codes(self, weight: npt.NDArray[np.int8], shape: LinearShape) -> Bytes:
        groups = unsigned_codes(weight, shape).reshape(len(weight), shape.steps, QUAD, GROUP)
        subsets = (groups << np.arange(GROUP, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
        return np.asarray(subsets + (np.arange(QUAD) << GROUP), np.uint8)

    def prepare(self, code: Code, shape: LinearShape) -> None:
        """All tables into TB, those of two pieces side by side."""
        code.line(f'TB = T.alloc_buffer(({shape.steps * self.pieces * TABLE_BYTES},), "uint8")')
        code.let("v_none", f"T.Broadcast(T.uint8(0), {_LOAD})")
        with code.block(f"for t in range({shape.steps}):"):
            x = code.let("x", f"XS[{ramp(f't * {INDICES.inputs}', _LOAD)}]")
            pieces = [x]
            if self.pieces == 2:
                pieces = [
                    code.let("lower", f"T.bitwise_and({x}, T.Broadcast(T.uint8(15), {_LOAD}))"),
                    code.let("upper", f"T.shift_right({x}, T.Broadcast(T.uint8({_LOWER_BITS}), {_LOAD}))"),
                ]
            for p, piece in enumerate(pieces):
                for half, members in enumerate(subset_members()):
                    terms = [f"T.Shuffle([{piece}, v_none], {chosen})" for chosen in members]
                    at = f"(t * {self.pieces} + {p}) * {TABLE_BYTES} + {half * _HALF_TABLE}"
                    code.line(f"TB[{ramp(at, _HALF_TABLE)}] = {' + '.join(terms)}")

    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        accs = accumulators(code, shape)
        with code.block(f"for k in range({shape.steps}):"):
            for p in range(self.pieces):
                for half in (0, 1):
                    at = f"(k * {self.pieces} + {p}) * {TABLE_BYTES} + {half * _HALF_TABLE}"
                    code.let(f"t{p}_{half}", f"TB[{ramp(at, _HALF_TABLE)}]")
            for i, acc in enumerate(accs[0]):
                index = code.let(f"w{i}", f'T.reinterpret("uint8x64", {load_weights(code, shape, "k", i, ahead)})')
                for p in range(self.pieces):
                    found = intrin("uint8x64", _PERMUTE, f"t{p}_0", index, f"t{p}_1")
                    worth = f"T.Broadcast(T.int8({1 << p * _LOWER_BITS}), 64)"
                    code.line(f"{acc} = {intrin('int32x16', _DOT, acc, found, worth)}")
        return accs


def subset_members() -> list[list[list[int]]]:
    """For each half of a table, and each of five members of a group: where its bytes find the member.

    Positions are those of 20 activations; `_LOAD` stands for a zero, where the subset lacks the member.
    """
    entries = [(q, e) for q in range(QUAD) for e in range(1 << GROUP)]
    members = [[q * GROUP + j if e >> j & 1 else _LOAD for q, e in entries] for j in range(GROUP)]
    return [[places[start : start + _HALF_TABLE] for places in members] for start in (0, _HALF_TABLE)]
