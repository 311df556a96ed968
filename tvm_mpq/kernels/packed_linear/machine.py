"""What one machine does in a tile: products of packed weights with signed activations, added up in int32."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tvm_mpq.kernels.packed_linear.coding import Coding
from tvm_mpq.kernels.packed_linear.shape import QUAD, LinearShape
from tvm_mpq.kernels.tir import Code, ramp


class Machine(ABC):
    """lanes: int32 lanes of a vector; registers: vector registers."""

    lanes: int
    registers: int

    @abstractmethod
    def depths(self, coding: Coding) -> list[int]:
        """Steps that one trip of the loop may take, the usual number first."""

    @abstractmethod
    def needed(self, coding: Coding, rows: int, parts: int) -> int:
        """Registers in use with so many rows and parts of a tile."""

    @abstractmethod
    def header(self, code: Code, coding: Coding) -> None:
        """Bind constants once per call."""

    @abstractmethod
    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        """Write the loop over the input channels; sum u * s as int32 vectors, for each row and part of the tile.

        The code finds weights in W from `w_tile` on, rows of activations in XS; `ahead` is how many bytes ahead weights
        are asked for, 0 for not at all.
        """


def activations(code: Code, shape: LinearShape, step: str) -> list[str]:
    """Four bytes of each row, repeated to a vector."""
    names = []
    for r in range(shape.rows):
        quad = f'T.reinterpret("int32", XS[{ramp(f"{r * shape.row_bytes} + ({step}) * {QUAD}", QUAD)}])'
        names.append(
            code.let(f"x{r}", f'T.reinterpret("int8x{shape.vector_bytes}", T.Broadcast({quad}, {shape.lanes}))')
        )
    return names


def packed_weights(code: Code, shape: LinearShape, step: str, ahead: int) -> list[str]:
    """The byte vectors of one step, as int32 lanes."""
    names = []
    for v in range(shape.vectors):
        at = f"w_tile + ({step}) * {shape.step_bytes} + {v * shape.vector_bytes}"
        names.append(code.let(f"w{v}", f'T.reinterpret("int32x{shape.lanes}", W[{ramp(at, shape.vector_bytes)}])'))
        if ahead:  # past the last weights the address is out of bounds, which a prefetch may be
            pointer = f"T.address_of(W[{at} + {ahead}])"
            code.line(f'T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", {pointer}, 0, 3, 1))')
    return names


def repeated(byte: int) -> int:
    """The int32 of four equal bytes."""
    word = byte * 0x01010101
    return word - (1 << 32) if word >= 1 << 31 else word
