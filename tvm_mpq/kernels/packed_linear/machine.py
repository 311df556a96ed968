"""What one machine does in a tile: packed weights meet activations and are added up in int32."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packed_linear.coding import SIGN_BIT, Coding
from tvm_mpq.kernels.packed_linear.pack import Bytes, unsigned_codes
from tvm_mpq.kernels.packed_linear.shape import QUAD, LinearShape
from tvm_mpq.kernels.tir import Code, ramp


class Machine(ABC):
    """lanes: int32 lanes of a vector; registers: vector registers; sign: what is taken off stored activations."""

    lanes: int
    registers: int
    sign = SIGN_BIT

    def __init__(self, coding: Coding) -> None:
        self.coding = coding

    @abstractmethod
    def depths(self) -> list[int]:
        """Steps that one trip of the loop may take, the usual number first."""

    @abstractmethod
    def needed(self, rows: int, parts: int) -> int:
        """Registers in use with so many rows and parts of a tile."""

    def codes(self, weight: npt.NDArray[np.int8], shape: LinearShape) -> Bytes:
        """int8[O, I] -> uint8[O, steps, 4]: what each step reads of a channel, in one field of four bytes."""
        return unsigned_codes(weight, shape).reshape(len(weight), shape.steps, QUAD)

    def header(self, code: Code) -> None:  # noqa: B027 - not every machine needs constants
        """Bind constants once per call."""

    def prepare(self, code: Code, shape: LinearShape) -> None:  # noqa: B027 - most machines take activations as they are
        """Make of the activations in XS what `sums` reads, once per call."""

    @abstractmethod
    def sums(self, code: Code, shape: LinearShape, ahead: int) -> list[list[str]]:
        """Write the loop over the input channels; sum u * s as int32 vectors, for each row and part of the tile.

        The code finds weights in W from `w_tile` on, rows of activations in XS; `ahead` is how many bytes ahead weights
        are asked for, 0 for not at all.
        """


def accumulators(code: Code, shape: LinearShape) -> list[list[str]]:
    """int32 sums of 0 for each row and part, readable and assignable."""
    accs = []
    for r in range(shape.rows):
        for i in range(shape.parts):
            code.line(f'a{r}_{i} = T.alloc_buffer(({shape.lanes},), "int32")')
        accs.append([f"a{r}_{i}[{ramp(0, shape.lanes)}]" for i in range(shape.parts)])
        for acc in accs[-1]:
            code.line(f"{acc} = T.Broadcast(0, {shape.lanes})")
    return accs


def quads(code: Code, shape: LinearShape, step: str) -> list[str]:
    """Four signed activations of each row, repeated to a vector."""
    names = []
    for r in range(shape.rows):
        quad = f'T.reinterpret("int32", XS[{ramp(f"{r * shape.row_bytes} + ({step}) * {QUAD}", QUAD)}])'
        vector = f'T.reinterpret("int8x{shape.vector_bytes}", T.Broadcast({quad}, {shape.lanes}))'
        names.append(code.let(f"x{r}", vector))
    return names


def load_weights(code: Code, shape: LinearShape, step: str, vector: int, ahead: int) -> str:
    """One byte vector of a step, as int32 lanes."""
    at = f"w_tile + ({step}) * {shape.step_bytes} + {vector * shape.vector_bytes}"
    if ahead:  # past the last weights the address is out of bounds, which a prefetch may be
        pointer = f"T.address_of(W[{at} + {ahead}])"
        code.line(f'T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", {pointer}, 0, 3, 1))')
    return f'T.reinterpret("int32x{shape.lanes}", W[{ramp(at, shape.vector_bytes)}])'


def repeated(byte: int) -> int:
    """The int32 of four equal bytes."""
    word = byte * 0x01010101
    return word - (1 << 32) if word >= 1 << 31 else word
