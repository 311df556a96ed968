"""AVX-512 VBMI: vpermb looks sums of activations up in tables of 64 bytes, for convolutions of few weight bits.

One step of a tile looks `depth` tables of every kernel column up for every position and block of 16 output channels,
adds as many of the bytes as fit, and one vpdpbusd adds the four bytes of each channel, weighted, to its int32
accumulator.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import reduce
from operator import add

import numpy as np

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Parameter,
    Register,
    Task,
    Value,
    accumulators,
    alloc,
    byte_vector,
    constant,
    intrinsic,
    let,
    loop,
    shuffle,
    zeros,
)
from tvm_mpq.kernels.frames.lookup import LookupMachine, LookupTile
from tvm_mpq.kernels.machines.vnni512 import dot
from tvm_mpq.kernels.packing.table_indices import (
    TABLE_BYTES,
    TableCoding,
    TableShape,
    even_parts,
    index_shape,
    table_coding,
)
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, conv_of
from tvm_mpq.numerics.arrays import ByteArray

_PERMUTE = "llvm.x86.avx512.permvar.qi.512"
_PLANES = -0x01FE01FF  # bytes 1, -2, 1, -2 as one little-endian int32
_ONES = 0x01010101
_LOAD = 32  # activations loaded for the tables of one vector of partial sums
_UNROLLED_VECTORS = 4  # of partial sums of a position that are written out
_UNROLLED_STEPS = 16  # shorter reduction loops would be unrolled whole, and spill

Picks = list[ByteArray]


def partial_sums(coding: TableCoding) -> tuple[Picks, list[Picks]]:
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


class TableLookup(LookupMachine):
    """Weights of one or two bits; knobs {"blocks", "depth"}: blocks of 16 channels of a tile, tables of a step."""

    lanes = part_channels = BLOCK

    def __init__(self, request: Request, knobs: Knobs) -> None:
        self.coding = table_coding(request)
        self.s = TableShape.of(conv_of(request), self.coding)
        super().__init__(request, self.s, knobs["blocks"])
        self.sums = self.coding.sums_limit(request.precision.activation_bits)
        self.depth = min(knobs["depth"], self.s.tables)
        self.block_bytes = self.s.kernel[0] * self.s.lookups * TABLE_BYTES

    @property
    def weight(self) -> Parameter:
        return Parameter("weight", index_shape(self.s, conv_of(self.request).out_channels), "uint8")

    @property
    def lookups(self) -> int:
        return self.s.kernel[0] * self.s.lookups

    @property
    def weight_loads(self) -> int:
        return self.lookups

    @property
    def row_bytes(self) -> int:
        return self.s.row_bytes

    def prepare(self, slots: int, weights: Buffer) -> None:
        self.weights = weights
        self.tables = alloc(slots * self.s.row_bytes, "uint8")
        terms, picks = partial_sums(self.coding)
        self.terms = [let(byte_vector(term), "term") for term in terms]
        self.picks = [[let(byte_vector(part), "pick") for part in parts] for parts in picks]
        self.none = let(zeros(_LOAD, "uint8"), "none")
        worth = constant(_ONES if self.coding.signed else _PLANES, "int32", BLOCK)
        self.worth = let(worth.reinterpret("uint8", TABLE_BYTES), "worth")

    def build_row(self, line: Buffer, start: Index, slot: Index, task: Task) -> None:
        """A few tables at a time, from one vector of partial sums."""
        s, together = self.s, self.coding.together
        loaded, written = together * self.coding.channels, together * TABLE_BYTES
        whole, rest = divmod(s.in_channels, loaded)  # rest: channels of the last vector, which is not full
        with loop(s.columns) as px:
            source = let(start + px * s.in_cells, "source")
            target = let(slot * s.row_bytes + px * (s.tables * TABLE_BYTES), "target")
            if whole > _UNROLLED_VECTORS:
                with loop(whole) as i:
                    self._tables(line, source + i * loaded, target + i * written, together)
            else:
                for j in range(whole):
                    self._tables(line, source + j * loaded, target + j * written, together)
            if rest:
                valid = rest if self.coding.signed and rest % self.coding.channels else _LOAD
                count = s.tables - whole * together
                self._tables(line, source + whole * loaded, target + whole * written, count, valid)

    def _tables(self, line: Buffer, source: Index, target: Index, count: int, valid: int = _LOAD) -> None:
        """`count` tables of the activations at `source`, of which the first `valid` exist and the others are 0."""
        loaded = line.load(source, _LOAD)
        if valid < _LOAD:
            loaded = loaded & byte_vector(np.where(np.arange(_LOAD) < valid, 255, 0).astype(np.uint8))
        x = let(loaded, "x")
        v = let(shuffle([x, self.none - x if self.coding.signed else self.none], range(2 * _LOAD)), "v")
        sums = let(reduce(add, (_permute(v, term) for term in self.terms)), "sums")
        for table, picks in enumerate(self.picks[:count]):
            entries = reduce(add, (_permute(sums, pick) for pick in picks))
            self.tables.store(target + table * TABLE_BYTES, entries)

    def totals(self, tile: LookupTile, biases: list[Value]) -> list[list[Value]]:
        s, kh = self.s, self.s.kernel[0]
        accs = accumulators(tile.columns, [BLOCK] * tile.parts, "int32")
        for line in accs:
            for acc, bias in zip(line, biases, strict=True):
                acc.value = bias
        steps, rest = divmod(s.tables, self.depth)
        t_step, w_step = self.depth * TABLE_BYTES, self.depth * s.kernel[1] * TABLE_BYTES
        t_tile = let(tile.ow * (s.stride[1] * s.tables * TABLE_BYTES), "t_tile")
        w_tile = let(tile.part * self.block_bytes, "w_tile")
        if kh > 1 and not rest and steps < _UNROLLED_STEPS:
            with loop(kh * steps) as k:
                row = let(k // steps, "ky")
                t = let(t_tile + tile.slot(row) * s.row_bytes + (k - row * steps) * t_step, "t")
                self._step(t, w_tile + k * w_step, accs, self.depth)
        else:
            with ExitStack() as stack:
                ky: Index = stack.enter_context(loop(kh)) if kh > 1 else 0
                t_row = let(t_tile + tile.slot(ky) * s.row_bytes, "t_row")
                w_row = let(w_tile + ky * (s.lookups * TABLE_BYTES), "w_row")
                with loop(steps) as k:
                    self._step(t_row + k * t_step, w_row + k * w_step, accs, self.depth)
                if rest:
                    self._step(t_row + steps * t_step, w_row + steps * w_step, accs, rest)
        return [[acc.value for acc in line] for line in accs]

    def _step(self, t: Value, w: Value, accs: list[list[Register]], depth: int) -> None:
        """`depth` tables of all kernel columns, in chains of as many look-ups as a byte can hold."""
        s = self.s
        order = [(table, column) for table in range(depth) for column in range(s.kernel[1])]
        for start, stop in even_parts(len(order), self.sums):
            indices = [
                [
                    let(self.weights.load(w + (b * self.block_bytes + i * TABLE_BYTES), TABLE_BYTES), "index")
                    for i in range(start, stop)
                ]
                for b in range(len(accs[0]))
            ]
            loaded: dict[int, Value] = {}
            for p, row in enumerate(accs):
                chain = []
                for table, column in order[start:stop]:
                    at = ((p * s.stride[1] + column) * s.tables + table) * TABLE_BYTES
                    if at not in loaded:
                        loaded[at] = let(self.tables.load(t + at, TABLE_BYTES), "table")
                    chain.append(loaded[at])
                for acc, index in zip(row, indices, strict=True):
                    found = reduce(add, (_permute(table, i) for table, i in zip(chain, index, strict=True)))
                    factors = (self.worth, found) if self.coding.signed else (found, self.worth)
                    acc.value = dot(acc.value, *factors)


def _permute(values: Value, indices: Value) -> Value:
    return intrinsic(_PERMUTE, "uint8", TABLE_BYTES, values, indices)
