"""Building one row of tables: input row with its border into a line, then five activations at a time into sums."""

from __future__ import annotations

from tvm_mpq.kernels.lut.shape import GROUP, PER_TABLE, TABLE_BYTES, LutShape
from tvm_mpq.kernels.tir import Code, intrin, ramp

PERMUTE = "llvm.x86.avx512.permvar.qi.512"
_ZERO = 32  # a byte of the source vector that holds 0
_PAIR = 16  # where sums of neighbours begin in the source vector


def _byte(value: int) -> str:
    return f"T.Broadcast(T.uint8({value}), 64)"


def header(code: Code) -> None:
    """Bind the permutations: for each entry e of a table, the source byte of its bits 0-1, 2-3 and 4.

    A source vector holds ten activations a_i at 0.., a_i + a_(i+1) at 16.. and zeros from 32, so two bits of e are one
    look-up.
    """
    code.let("v_e", "T.Ramp(T.uint8(0), T.uint8(1), 64)")
    code.let("v_group", f"T.shift_right(v_e, {_byte(5)}) * {_byte(GROUP)}")
    for i, first in enumerate((0, 2)):
        bits = code.let(f"v_bits{i}", f"T.bitwise_and(T.shift_right(v_e, {_byte(first)}), {_byte(3)})")
        base = code.let(f"v_base{i}", f"v_group + {_byte(first)}")
        one = f"T.Select({bits} == {_byte(2)}, {base} + {_byte(1)}, {base})"
        some = f"T.Select({bits} == {_byte(3)}, {base} + {_byte(_PAIR)}, {one})"
        code.let(f"v_pick{i}", f"T.Select({bits} == {_byte(0)}, {_byte(_ZERO)}, {some})")
    last = f"T.bitwise_and(T.shift_right(v_e, {_byte(4)}), {_byte(1)})"
    code.let("v_pick2", f"T.Select({last} == {_byte(0)}, {_byte(_ZERO)}, v_group + {_byte(4)})")
    code.let("v_none", "T.Broadcast(T.uint8(0), 16)")


class RowBuilder:
    """Code that fills table row `y` of image `n` at byte `target` of TB, by way of the line at byte `line` of L."""

    def __init__(self, code: Code, shape: LutShape, sums: int) -> None:
        self.code, self.s, self.sums = code, shape, sums

    def build(self, y: str, target: str, line: str) -> None:
        self._line(y, line)
        s, code = self.s, self.code
        with code.block(f"for px in range({s.columns}):"):
            code.let("px_source", f"{line} + px * {s.in_cells}")
            code.let("px_target", f"{target} + px * {s.tables * TABLE_BYTES}")
            if s.tables <= 4:
                for i in range(s.tables):
                    self._table(f"px_source + {i * PER_TABLE}", f"px_target + {i * TABLE_BYTES}", str(i))
            else:
                with code.block(f"for pg in range({s.tables}):"):
                    self._table(f"px_source + pg * {PER_TABLE}", f"px_target + pg * {TABLE_BYTES}", "")
        for i in range(s.slack(self.sums)):
            at = f"{target} + {(s.columns * s.tables + i) * TABLE_BYTES}"
            code.line(f"TB[{ramp(at, 64)}] = {_byte(0)}")

    def _table(self, source: str, target: str, mark: str) -> None:
        code = self.code
        x = code.let(f"xs{mark}", f"L[{ramp(source, 16)}]")
        pairs = code.let(f"ps{mark}", f"{x} + L[{ramp(f'{source} + 1', 16)}]")
        v = code.let(f"vs{mark}", f"T.Shuffle([{x}, {pairs}, v_none, v_none], {list(range(64))})")
        parts = [intrin("uint8x64", PERMUTE, v, f"v_pick{i}") for i in range(3)]
        code.line(f"TB[{ramp(target, 64)}] = {' + '.join(parts)}")

    def _line(self, y: str, line: str) -> None:
        """The input row of table row `y`, zero points around it, into the line."""
        s, code = self.s, self.code
        left = min(s.left, s.columns)
        taken = min(s.in_width, s.columns - left)
        row_bytes = s.in_width * s.in_cells
        if s.folded:
            code.let("source", f"T.min(({y}) * {s.out_width}, {s.folded - s.out_width}) * {s.in_cells}")
            self._copy(line, "source", s.columns * s.in_cells)
            return
        code.let("in_row", f"({y}) * {s.row_scale} - {s.top}")
        with code.block(f"if T.And(0 <= in_row, in_row < {s.in_height}):"):
            code.let("source", f"(n * {s.in_height} + in_row) * {row_bytes}")
            if s.column_scale > 1:  # without padding at the sides
                with code.block(f"for lx in range({s.columns}):"):
                    near, far = f"{line} + lx * {s.in_cells}", f"source + lx * {s.column_scale * s.in_cells}"
                    self._copy(near, far, s.in_cells)
            else:
                self._fill(line, left * s.in_cells)
                self._copy(f"{line} + {left * s.in_cells}", "source", taken * s.in_cells)
                self._fill(f"{line} + {(left + taken) * s.in_cells}", (s.columns - left - taken) * s.in_cells)
        with code.block("else:"):
            self._fill(line, s.columns * s.in_cells)

    def _fill(self, target: str, count: int) -> None:
        for start, size, times in _chunks(count):
            with self.code.block(f"for i in range({times}):"):
                self.code.line(f"L[{ramp(f'{target} + {start} + i * {size}', size)}] = T.Broadcast(z, {size})")

    def _copy(self, target: str, source: str, count: int) -> None:
        for start, size, times in _chunks(count):
            with self.code.block(f"for i in range({times}):"):
                at = f"{start} + i * {size}"
                self.code.line(f"L[{ramp(f'{target} + {at}', size)}] = X[{ramp(f'{source} + {at}', size)}]")


def _chunks(count: int) -> list[tuple[int, int, int]]:
    """(start, size, times) that cover `count` bytes, a multiple of 4."""
    out, start = [], 0
    for size in (64, 16, 4):
        times = (count - start) // size
        if times:
            out.append((start, size, times))
            start += times * size
    return out
