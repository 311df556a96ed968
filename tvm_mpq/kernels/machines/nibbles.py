"""Look-ups in tables of 16 entries, for machines whose byte permute takes 16 bytes.

One step looks 2 * sums tables up for every position and vector of output channels. The looked-up bytes are added, and
their sum enters 16 bit counters: one, where neighbouring bytes are bits of one channel and are added; else two, of 8
channels each. Before a counter can overflow it moves into int32. Planes of bits follow one after the other.

Tables are built by plain shuffles, which LLVM turns into byte permutes on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from operator import add

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Parameter,
    Register,
    Task,
    Value,
    accumulators,
    alloc,
    bind,
    clear,
    intrinsic,
    let,
    loop,
    minimum,
    ramp,
    select,
    shuffle,
    tiles,
    zeros,
)
from tvm_mpq.kernels.frames.lookup import LookupMachine, LookupTile
from tvm_mpq.kernels.packing.nibble_indices import GROUP, TABLE_BYTES, NibbleShape, nibble_coding, nibble_shape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of

_LANES = 8  # int32 lanes of the sums
_CHUNK = 16  # channels of one load: four tables
_SUMMANDS = 16  # eight activations and eight sums of neighbours

Counters = list[Register]
"""uint16, of one position and part."""


class NibbleMachine(ABC):
    """What one machine contributes: the look-up itself, and how looked-up bytes are counted.

    rows: tables that one instruction looks up, each in its own 16 bytes of the vector; byte_channels: which of 16
    output channels each byte of a row belongs to, where no two bits stand beside each other.
    """

    rows: int
    registers: int
    byte_channels: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return TABLE_BYTES * self.rows

    @abstractmethod
    def find(self, tables: Value, index: Value) -> Value:
        """uint8 entries of `tables` at `index` < 16, 16 bytes by 16 bytes."""

    @abstractmethod
    def add_pairs(self, acc: Value, found: Value) -> Value:
        """acc (uint16) plus the sums of bytes 2j and 2j + 1 of `found`."""

    @abstractmethod
    def count(self, counters: Counters, found: Value) -> None:
        """Add every byte of `found` to the two counters of a part."""

    @abstractmethod
    def halves(self, counters: list[Value]) -> list[Value]:
        """uint16 sums of output channels 0..7 and 8..15 in the counters that `count` has filled."""


@dataclass(frozen=True)
class _Window:
    """Where a kernel row's tables and weights begin."""

    tables: Value
    weights: Value


class NibbleLookup(LookupMachine):
    """Weights of one to three bits; knobs {"parts", "sums"}: vectors of channels of a tile, bytes added at once."""

    lanes = _LANES

    def __init__(self, request: Request, knobs: Knobs, machine: NibbleMachine) -> None:
        self.coding = nibble_coding(request)
        self.part_channels = self.coding.part_channels
        self.s = NibbleShape.of(conv_of(request))
        super().__init__(request, self.s, knobs["parts"])
        self.machine, self.sums = machine, int(knobs["sums"])
        self.step_tables = 2 * self.sums
        self.steps = self.s.steps(self.step_tables)
        self.step_bytes = self.sums * TABLE_BYTES
        self.plane_bytes = self.s.kernel[0] * self.steps * self.step_bytes
        self.part_bytes = self.coding.planes * self.plane_bytes
        counted = self.step_tables // machine.rows  # tables that enter a counter in one step
        self.most_steps = self.coding.lookups_limit(request.precision.activation_bits) // counted
        self.counters = self.part_channels // _LANES

    @property
    def weight(self) -> Parameter:
        return Parameter("weight", nibble_shape(self.s, self.coding, self.all_parts, self.sums), "uint8")

    @property
    def lookups(self) -> int:
        return self.coding.planes * self.s.kernel[0] * self.steps * self.step_tables // self.machine.rows

    @property
    def weight_loads(self) -> int:
        return self.lookups // 2  # two nibbles a byte

    @property
    def row_bytes(self) -> int:
        return self.s.table_row_bytes(self.step_tables)

    def prepare(self, slots: int, weights: Buffer) -> None:
        """A row is tables, and sums of activations over each window's columns."""
        self.weights = weights
        self.tables = alloc(slots * self.row_bytes, "uint8")
        self.window_sums = alloc(slots * self.s.out_width, "int32")
        self.position_sums = alloc(self.threads * self.s.columns, "int32")
        self.none = let(zeros(_CHUNK, "uint8"), "none")

    def build_row(self, line: Buffer, start: Index, slot: Index, task: Task) -> None:
        s, sums = self.s, task.offset(self.s.columns)
        row = bind(slot * self.row_bytes, "row")
        lanes = Register(_CHUNK, "uint16")  # sums of the activations of one position
        with loop(s.columns) as px:
            source = let(start + px * s.in_cells, "source")
            target = let(row + px * (s.tables * TABLE_BYTES), "target")
            lanes.value = zeros(_CHUNK, "uint16")
            whole, rest = divmod(s.in_channels, _CHUNK)
            if whole:
                with loop(whole) as i:
                    self._tables(line, source + i * _CHUNK, target + i * (4 * TABLE_BYTES), _CHUNK, lanes)
            if rest:
                self._tables(line, source + whole * _CHUNK, target + whole * (4 * TABLE_BYTES), rest, lanes)
            self.position_sums[sums + px] = intrinsic("llvm.vector.reduce.add", "int32", 1, lanes.value.cast("int32"))
        for end in range(s.columns * s.tables * TABLE_BYTES, self.row_bytes, TABLE_BYTES):
            self.tables.store(row + end, self.none)
        with loop(s.out_width) as px:
            window = [self.position_sums[sums + px * s.stride[1] + i] for i in range(s.kernel[1])]
            self.window_sums[slot * s.out_width + px] = reduce(add, window)

    def _tables(self, line: Buffer, source: Index, target: Index, count: int, lanes: Register) -> None:
        """Up to 16 channels; what follows the last one is in no sum, and in no entry that weights select."""
        rows = self.machine.rows
        none = zeros(rows * _SUMMANDS, "uint8")
        x = let(line.load(source, _CHUNK), "x")
        pairs = let(x + line.load(source + 1, _CHUNK), "pairs")
        for half in range(tiles(count, 8)):
            eight = [8 * half + i for i in range(8)]
            # Once in every row of the machine's vectors, so that each table finds its sums within its own 16 bytes.
            v = let(shuffle([x, pairs], (eight + [_CHUNK + i for i in eight]) * rows), "v")
            low, high = (let(shuffle([v, none], entry_sources(bit, rows)), "sums") for bit in (0, 2))
            self.tables.store(target + half * 2 * TABLE_BYTES, low + high)
        if count < _CHUNK:
            x = select(ramp(0, _CHUNK) < count, x, self.none)
        lanes.value = lanes.value + x.cast("uint16")

    def totals(self, tile: LookupTile, biases: list[Value]) -> list[list[Value]]:
        s, planes = self.s, self.coding.planes
        counters = [
            accumulators(tile.parts, [self.machine.width // 2] * self.counters, "uint16") for _ in range(tile.columns)
        ]
        starts = []
        for p in range(tile.columns):
            rows = [self.window_sums[tile.slot(ky) * s.out_width + tile.ow + p] for ky in range(s.kernel[0])]
            offset = let(reduce(add, rows) * self.coding.offset, "offset")
            starts.append([bias - offset for bias in biases])
        t_tile = let(tile.ow * (s.stride[1] * s.tables * TABLE_BYTES), "t_tile")
        w_tile = let(tile.part * self.part_bytes, "w_tile")
        fits = s.kernel[0] * self.steps <= self.most_steps  # the counters hold the sums of a whole window

        def kernel_row(stack: ExitStack, plane: Index) -> _Window:
            """Begin a loop over kernel rows."""
            ky = stack.enter_context(loop(s.kernel[0])) if s.kernel[0] > 1 else 0
            w = w_tile + plane * self.plane_bytes + ky * (self.steps * self.step_bytes)
            return _Window(let(t_tile + tile.slot(ky) * self.row_bytes, "t_row"), let(w, "w_row"))

        def count_window(plane: Index) -> None:
            self._clear(counters)
            with ExitStack() as stack:
                self._steps(kernel_row(stack, plane), 0, self.steps, counters)

        if planes == 1 and fits:
            count_window(0)
            return [
                [start + total for start, total in zip(row, self._counted(line), strict=True)]
                for row, line in zip(starts, counters, strict=True)
            ]
        sums = accumulators(tile.columns, [_LANES] * len(biases), "int32")
        for row, line in zip(sums, starts, strict=True):
            for total, start in zip(row, line, strict=True):
                total.value = start
        with ExitStack() as stack:
            plane = stack.enter_context(loop(planes)) if planes > 1 else 0
            if fits:
                count_window(plane)
                self._move(counters, sums, plane)
            else:  # as many steps as the counters hold, and so on
                window = kernel_row(stack, plane)
                low = stack.enter_context(loop(tiles(self.steps, self.most_steps))) * self.most_steps
                self._clear(counters)
                self._steps(window, low, minimum(low + self.most_steps, self.steps), counters)
                self._move(counters, sums, plane)
        return [[total.value for total in row] for row in sums]

    def _clear(self, counters: list[list[Counters]]) -> None:
        for row in counters:
            clear(row)

    def _move(self, counters: list[list[Counters]], sums: list[list[Register]], plane: Index) -> None:
        """Add what is counted to the sums, times what the plane's bits are worth."""
        for row, line in zip(sums, counters, strict=True):
            for total, counted in zip(row, self._counted(line), strict=True):
                total.value = total.value + (counted << plane if isinstance(plane, Value) else counted)

    def _counted(self, parts: list[Counters]) -> list[Value]:
        """int32 sums in the counters of one position, 8 channels each, times the weights' factor."""
        out = []
        for part in parts:
            values = [counter.value for counter in part]
            for value in values if self.coding.beside > 1 else self.machine.halves(values):
                wide = self._wide(value)
                out.append(wide if self.coding.factor == 1 else wide * self.coding.factor)
        return out

    def _wide(self, counter: Value) -> Value:
        """A counter's rows as int32, added."""
        if self.machine.rows == 1:
            return counter.cast("int32")
        value = let(counter, "counter")
        return reduce(add, (value.lanes_of(range(8 * r, 8 * r + 8)).cast("int32") for r in range(self.machine.rows)))

    def _steps(self, window: _Window, low: Index, high: Index, counters: list[list[Counters]]) -> None:
        with loop(low, high) as k:
            tables, weights = window.tables + k * (self.step_tables * TABLE_BYTES), window.weights + k * self.step_bytes
            for row in range(2 // self.machine.rows):  # with vectors of one row, both rows enter the same counters
                self._step(tables + row * TABLE_BYTES, weights + row * TABLE_BYTES, counters)

    def _step(self, tables: Value, weights: Value, counters: list[list[Counters]]) -> None:
        """Look 2 * sums tables up for each position and part."""
        m, apart = self.machine, self.s.stride[1] * self.s.tables * TABLE_BYTES
        indices = []
        for b in range(len(counters[0])):
            indices.append(list[Value]())
            for i in range(self.sums // 2):
                pair = let(self.weights.load(weights + (b * self.part_bytes + i * 2 * TABLE_BYTES), m.width), "pair")
                indices[-1] += [let(pair & 15, "low"), let(pair >> 4, "high")]
        for p, line in enumerate(counters):
            loads = [self.tables.load(tables + (p * apart + 2 * i * TABLE_BYTES), m.width) for i in range(self.sums)]
            loaded = [let(load, "table") for load in loads]
            for part, index in zip(line, indices, strict=True):
                found = let(reduce(add, (m.find(t, i) for t, i in zip(loaded, index, strict=True))), "found")
                if self.coding.beside > 1:
                    part[0].value = m.add_pairs(part[0].value, found)
                else:
                    m.count(part, found)


def entry_sources(first_bit: int, rows: int) -> list[int]:
    """For entry e of two tables: where bits first_bit and first_bit + 1 find their sum.

    Among [a0..a7, a0 + a1..a7 + a8], `rows` times (the second table has its own where there are two), and zeros.
    """
    out = []
    for table in range(2):
        at = _SUMMANDS * min(table, rows - 1) + GROUP * table + first_bit
        out += [(rows * _SUMMANDS, at, at + 1, 8 + at)[e >> first_bit & 3] for e in range(TABLE_BYTES)]
    return out
