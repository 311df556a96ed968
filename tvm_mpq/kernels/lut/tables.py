"""Building one row of tables: input row with its border into a line, then a few tables at a time from partial sums."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.lut.coding import TABLE_BYTES, Coding
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.tir import Code, intrin, ramp

PERMUTE = "llvm.x86.avx512.permvar.qi.512"
_LOAD = 32  # activations loaded for the tables of one vector of partial sums
_UNROLLED = 4  # vectors of partial sums of a position that are written out

Picks = list[npt.NDArray[np.uint8]]


def partial_sums(coding: Coding) -> tuple[Picks, list[Picks]]:
    """How tables come from 32 activations: `terms`, and for each table its `picks`.

    The bytes of a vector s are the sum over terms of v[term], where v holds the activations in its lower half; in its
    upper half it holds their negatives (signed sums) or zeros. A table is the sum over its picks of s[pick]: the sums
    chosen by the lower bits of an entry, and those by the upper ones.
    """
    low = coding.group // 2 if coding.signed else (coding.group + 1) // 2
    parts = [range(low), range(low, coding.group)]
    columns: list[list[int]] = []  # for each byte of s the bytes of v that it adds
    picks: list[Picks] = []
    where: dict[tuple[int, int, int, int], int] = {}
    for table in range(coding.together):
        for q in range(coding.groups):
            first = table * coding.channels + q * coding.group
            for half, part in enumerate(parts):
                for e in range(1 << len(part)):
                    terms = [first + j if e >> i & 1 else _LOAD + first + j for i, j in enumerate(part)]
                    if not coding.signed:
                        terms = [t for t in terms if t < _LOAD]
                    if terms:
                        where[table, q, half, e] = len(columns)
                        columns.append(terms)
    none = len(columns)  # at least one byte of s is 0 where subsets can be empty
    assert none + (not coding.signed) <= TABLE_BYTES
    columns += [[]] * (TABLE_BYTES - none)
    depth = max(len(c) for c in columns)
    terms_of = [np.array([c[i] if i < len(c) else _LOAD for c in columns], np.uint8) for i in range(depth)]
    entries = [(q, e) for q in range(coding.groups) for e in range(1 << coding.group)]
    for table in range(coding.together):
        lower = [where.get((table, q, 0, e & ((1 << low) - 1)), none) for q, e in entries]
        upper = [where.get((table, q, 1, e >> low), none) for q, e in entries]
        picks.append([np.array(lower, np.uint8), np.array(upper, np.uint8)])
    return terms_of, picks


def header(code: Code, coding: Coding) -> None:
    """Bind the permutations of `partial_sums` as v_term<i> and v_pick<table>_<i>."""
    terms, picks = partial_sums(coding)
    for i, term in enumerate(terms):
        code.let(f"v_term{i}", _vector(term))
    for table, parts in enumerate(picks):
        for i, part in enumerate(parts):
            code.let(f"v_pick{table}_{i}", _vector(part))
    code.let("v_none", f"T.Broadcast(T.uint8(0), {_LOAD})")


def _vector(values: npt.NDArray[np.uint8]) -> str:
    """A constant vector, through words because TIR has no other notation for one."""
    words = ", ".join(f"T.int32({v})" for v in values.view(np.int32))
    return f'T.reinterpret("uint8x{len(values)}", T.Shuffle([{words}], {list(range(len(values) // 4))}))'


class RowBuilder:
    """Code that fills table row `y` of image `n` at byte `target` of TB, by way of the line at byte `line` of L."""

    def __init__(self, code: Code, shape: LutShape, channels: int) -> None:
        self.code, self.s, self.channels = code, shape, channels

    def build(self, y: str, target: str, line: str) -> None:
        self._line(y, line)
        s, code, coding = self.s, self.code, self.s.coding
        rest = self.channels % (coding.together * coding.channels)  # channels of the last, not full vector
        whole = self.channels // (coding.together * coding.channels)
        with code.block(f"for px in range({s.columns}):"):
            code.let("px_source", f"{line} + px * {s.in_cells}")
            code.let("px_target", f"{target} + px * {s.tables * TABLE_BYTES}")
            loaded, written = coding.together * coding.channels, coding.together * TABLE_BYTES
            if whole > _UNROLLED:
                with code.block(f"for pg in range({whole}):"):
                    self._tables(f"px_source + pg * {loaded}", f"px_target + pg * {written}", "", coding.together)
            else:
                for i in range(whole):
                    at = f"px_source + {i * loaded}", f"px_target + {i * written}"
                    self._tables(*at, str(i), coding.together)
            if rest:
                at = f"px_source + {whole * loaded}", f"px_target + {whole * written}"
                count = s.tables - whole * coding.together
                self._tables(*at, "_rest", count, rest if coding.signed and rest % coding.channels else _LOAD)

    def _tables(self, source: str, target: str, mark: str, count: int, valid: int = _LOAD) -> None:
        """`count` tables of the activations at `source`, of which the first `valid` exist and the others are 0."""
        code, signed = self.code, self.s.coding.signed
        terms, picks = partial_sums(self.s.coding)
        value = f"L[{ramp(source, _LOAD)}]"
        if valid < _LOAD:
            exists = _vector(np.where(np.arange(_LOAD) < valid, 255, 0).astype(np.uint8))
            value = f"T.bitwise_and({value}, {exists})"
        x = code.let(f"xs{mark}", value)
        upper = f"v_none - {x}" if signed else "v_none"
        v = code.let(f"vs{mark}", f"T.Shuffle([{x}, {upper}], {list(range(2 * _LOAD))})")
        sums = code.let(f"ss{mark}", " + ".join(_permute(v, f"v_term{i}") for i in range(len(terms))))
        for table in range(count):
            parts = [_permute(sums, f"v_pick{table}_{i}") for i in range(len(picks[table]))]
            code.line(f"TB[{ramp(f'{target} + {table * TABLE_BYTES}', 64)}] = {' + '.join(parts)}")

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


def _permute(values: str, indices: str) -> str:
    return intrin("uint8x64", PERMUTE, values, indices)


def _chunks(count: int) -> list[tuple[int, int, int]]:
    """(start, size, times) that cover `count` bytes, a multiple of 4."""
    out, start = [], 0
    for size in (64, 16, 4):
        times = (count - start) // size
        if times:
            out.append((start, size, times))
            start += times * size
    return out
