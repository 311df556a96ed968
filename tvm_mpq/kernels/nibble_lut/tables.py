"""Building one row of tables of 16 entries, and the sums of activations that the weights' offset is multiplied with.

Plain shuffles, which LLVM turns into byte permutes on every machine.
"""

from __future__ import annotations

from tvm_mpq.kernels.lut.tables import RowBuilder
from tvm_mpq.kernels.nibble_lut.coding import GROUP, TABLE_BYTES
from tvm_mpq.kernels.nibble_lut.shape import NibbleShape
from tvm_mpq.kernels.tir import Code, intrin, ramp

_CHUNK = 16  # channels of one load: four tables
_ZERO = 16  # where zeros begin behind eight activations and eight sums of neighbours


def _picks(first_bit: int) -> list[int]:
    """For entry e of two tables: the source of bits first_bit, first_bit + 1 among [a0..a7, a0+a1..a7+a8, zeros]."""
    out = []
    for table in range(2):
        at = GROUP * table + first_bit
        out += [(_ZERO, at, at + 1, 8 + at)[e >> first_bit & 3] for e in range(TABLE_BYTES)]
    return out


class NibbleRows(RowBuilder):
    """Code that fills table row `y` of image `n`: tables in TB, sums over each window's columns in RS.

    L holds the input row with its border, CS the sums of its positions.
    """

    def __init__(self, code: Code, shape: NibbleShape, channels: int, tables_a_step: int) -> None:
        super().__init__(code, shape, channels)
        self.row_bytes = shape.table_row_bytes(tables_a_step)

    def header(self) -> None:
        self.code.let("v_zeros", f"T.Broadcast(T.uint8(0), {_CHUNK})")

    def build_row(self, y: str, slot: str, line: str, sums: str) -> None:
        """slot: which row of TB and RS; line: first byte in L; sums: first element of CS."""
        s, code = self.s, self.code
        self._line(y, line)
        code.let("row_target", f"({slot}) * {self.row_bytes}")
        code.line('cs = T.alloc_buffer((16,), "uint16")')
        with code.block(f"for px in range({s.columns}):"):
            code.let("px_source", f"{line} + px * {s.in_cells}")
            code.let("px_target", f"row_target + px * {s.tables * TABLE_BYTES}")
            self._position()
            wide = f'T.Cast("int32x16", cs[{ramp(0, 16)}])'
            code.line(f"CS[{sums} + px] = {intrin('int32', 'llvm.vector.reduce.add', wide)}")
        end = s.columns * s.tables * TABLE_BYTES
        while end < self.row_bytes:
            code.line(f"TB[{ramp(f'row_target + {end}', TABLE_BYTES)}] = v_zeros")
            end += TABLE_BYTES
        with code.block(f"for px in range({s.out_width}):"):
            window = [f"CS[{sums} + px * {s.stride[1]} + {i}]" for i in range(s.kernel[1])]
            code.line(f"RS[({slot}) * {s.out_width} + px] = {' + '.join(window)}")

    def _position(self) -> None:
        """All tables of one position and the sum of its activations, 16 channels at a time."""
        code, whole = self.code, self.channels // _CHUNK
        code.line(f"cs[{ramp(0, 16)}] = T.Broadcast(T.uint16(0), 16)")
        if whole:
            with code.block(f"for pg in range({whole}):"):
                self._chunk(f"px_source + pg * {_CHUNK}", f"px_target + pg * {4 * TABLE_BYTES}", _CHUNK)
        if self.channels % _CHUNK:
            at = f"px_source + {whole * _CHUNK}", f"px_target + {whole * 4 * TABLE_BYTES}"
            self._chunk(*at, self.channels % _CHUNK)

    def _chunk(self, source: str, target: str, count: int) -> None:
        """Up to 16 channels; what follows the last one is in no sum and in no entry that weights select."""
        code, mark = self.code, "" if count == _CHUNK else "_end"
        x = code.let(f"xs{mark}", f"L[{ramp(source, _CHUNK)}]")
        pairs = code.let(f"ps{mark}", f"{x} + L[{ramp(f'{source} + 1', _CHUNK)}]")
        for half in range(-(-count // 8)):
            lanes = [8 * half + i for i in range(8)]
            v = code.let(f"vs{mark}{half}", f"T.Shuffle([{x}, {pairs}], {lanes + [_CHUNK + i for i in lanes]})")
            low, high = (f"T.Shuffle([{v}, v_zeros], {_picks(bit)})" for bit in (0, 2))
            code.line(f"TB[{ramp(f'{target} + {half * 2 * TABLE_BYTES}', 2 * TABLE_BYTES)}] = {low} + {high}")
        if count < _CHUNK:
            there = f"T.Ramp(0, 1, {_CHUNK}) < T.Broadcast({count}, {_CHUNK})"
            x = f"T.Select({there}, {x}, v_zeros)"
        code.line(f'cs[{ramp(0, 16)}] = cs[{ramp(0, 16)}] + T.Cast("uint16x16", {x})')
