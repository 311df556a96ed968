"""Packing one row of activations: the input row with its border into a line, then the bits of each position."""

from __future__ import annotations

from tvm_mpq.kernels.bit_serial.shape import UNIT, UNIT_BYTES, WORD, WORD_BYTES, BitShape
from tvm_mpq.kernels.lut.tables import RowBuilder
from tvm_mpq.kernels.tir import Code, intrin, ramp

_TOP_BITS = {32: "llvm.x86.avx2.pmovmskb", 16: "llvm.x86.sse2.pmovmskb.128"}


class BitRows(RowBuilder):
    """Code that fills packed row `y` of image `n` in PB, by way of the line in L.

    A plane is a row of one bit of every activation; the planes of a row follow each other, lowest bit first.
    """

    def __init__(self, code: Code, shape: BitShape, channels: int, planes: int) -> None:
        super().__init__(code, shape, channels)
        self.plane_bytes, self.planes = shape.unit_row_bytes, planes

    def build_row(self, y: str, slot: str, line: str) -> None:
        """slot: which row of PB; line: first byte in L."""
        s, code = self.s, self.code
        self._line(y, line)
        whole, rest = divmod(self.channels, WORD)
        with code.block(f"for px in range({s.columns}):"):
            code.let("px_source", f"{line} + px * {s.in_cells}")
            code.let("px_target", f"({slot}) * {self.planes * self.plane_bytes} + px * {s.tables * UNIT_BYTES}")
            if whole:
                with code.block(f"for pg in range({whole}):"):
                    self._pack(f"px_source + pg * {WORD}", f"px_target + pg * {WORD_BYTES}", WORD)
            if rest:
                self._pack(f"px_source + {whole * WORD}", f"px_target + {whole * WORD_BYTES}", rest)

    def _pack(self, source: str, target: str, count: int) -> None:
        """The bits of up to 32 channels; those of channels that do not exist are 0."""
        code = self.code
        width = UNIT if count <= UNIT else WORD
        x = code.let(f"xs{count}", f'T.reinterpret("uint16x{width // 2}", L[{ramp(source, width)}])')
        for plane in range(self.planes):
            raised = f"T.shift_left({x}, T.Broadcast(T.uint16({7 - plane}), {width // 2}))"  # to the top of each byte
            bits = intrin("int32", _TOP_BITS[width], f'T.reinterpret("uint8x{width}", {raised})')
            if count % UNIT:
                bits = f"T.bitwise_and({bits}, T.int32({(1 << count) - 1}))"
            if width == UNIT:
                bits = f'T.Cast("uint16", {bits})'
            at = ramp(f"{target} + {plane * self.plane_bytes}", width // 8)
            code.line(f'PB[{at}] = T.reinterpret("uint8x{width // 8}", {bits})')
