"""The tile of a look-up convolution with nibbles: sums of looked-up bytes into 16 bit counters, then int32 and the end.

One step looks 2 * sums tables up for every position and vector of output channels. The looked-up bytes are added, and
their sum enters a 16 bit counter: with two bits a weight, neighbouring bytes are the bits of one channel and are added;
with one bit, one counter takes the pairs as they are (modulo 2^16) and one takes the odd bytes, of which the first is
freed at the end. Before a counter can overflow it moves into int32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.conv.geometry import tiles
from tvm_mpq.kernels.lut.frame import LookUpFrame
from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.nibble_lut.pack import packed_shape
from tvm_mpq.kernels.nibble_lut.shape import TABLE_BYTES, NibbleShape, lookups_limit, part_channels
from tvm_mpq.kernels.nibble_lut.tables import NibbleRows
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Task, ramp
from tvm_mpq.schema import Conv2dWorkload

_LANES = 8  # int32 lanes of the epilogue


def build_nibble_lut(request: Request, knobs: Knobs, machine: Machine) -> PrimFunc:
    """The convolution of `request` with knobs {"columns", "parts", "sums", "band", "order"}."""
    return _NibbleLut(request, knobs, machine).build()


def part_count(request: Request) -> int:
    """Vectors of output channels that cover all stored channels."""
    return -(-Epilogue(request, _LANES).stored_channels // part_channels(request.precision.weight_bits))


class _NibbleLut(LookUpFrame):
    def __init__(self, request: Request, knobs: Knobs, machine: Machine) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        shape = NibbleShape.of_workload(request.workload)
        geometry = knobs["columns"], knobs["parts"], part_count(request), knobs["band"], knobs["order"]
        super().__init__(shape, request.threads, *geometry)
        self.request, self.workload, self.machine = request, request.workload, machine
        self.shape = shape
        self.bits = request.precision.weight_bits
        self.sums: int = knobs["sums"]
        self.step_tables = 2 * self.sums
        self.steps = shape.steps(self.step_tables)
        self.row_bytes = shape.table_row_bytes(self.step_tables)
        self.step_bytes = self.sums // 2 * 2 * TABLE_BYTES
        self.part_bytes = shape.kernel[0] * self.steps * self.step_bytes
        counted = self.step_tables // machine.rows  # tables that enter a counter in one step
        self.most_steps = lookups_limit(self.bits, request.precision.activation_bits) // counted
        self.counters = 3 - self.bits
        self.epilogue = Epilogue(request, _LANES)
        self.rows = NibbleRows(self.code, shape, request.workload.in_channels, self.step_tables)

    def build(self) -> PrimFunc:
        s, w, code = self.s, self.workload, self.code
        code.line(f'X = T.decl_buffer(({w.batch * w.in_height * w.in_width * s.in_cells},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({self.all_channels * self.part_bytes},), "uint8", data=weight.data)')
        code.line(f'TB = T.alloc_buffer(({self.all_slots * self.row_bytes},), "uint8")')
        code.line(f'RS = T.alloc_buffer(({self.all_slots * s.out_width},), "int32")')
        code.line(f'L = T.alloc_buffer(({self.threads * s.line_bytes},), "uint8")')
        code.line(f'CS = T.alloc_buffer(({self.threads * s.columns},), "int32")')
        code.let("z", 'T.Cast("uint8", Q[0])')
        self.rows.header()
        self.epilogue.header(code)
        self.loops()
        weight = ("weight", packed_shape(self.shape, self.all_channels, self.sums), "uint8")
        return code.to_prim_func([*activation_params(self.request), weight, *range_params(self.request)])

    def build_row(self, y: str, slot: str, task: Task) -> None:
        self.rows.build_row(y, slot, task.offset(self.s.line_bytes), task.offset(self.s.columns))

    def locals(self) -> None:
        self.epilogue.locals(self.code)

    def tile(self, base: str) -> None:
        s, code, width = self.s, self.code, part_channels(self.bits)
        half = self.machine.width // 2
        names = [[f"c{p}_{b}" for b in range(self.channels)] for p in range(self.columns)]
        for name in (name for row in names for name in row):
            for i in range(self.counters):
                code.line(f'{name}_{i} = T.alloc_buffer(({half},), "uint16")')
        channel = [f"part * {width} + {v * _LANES}" for v in range(self.channels * self.counters)]
        for v, c in enumerate(channel):
            code.let(f"b{v}", f"bias[{ramp(c, _LANES)}]")
        for p in range(self.columns):
            parts = [f"RS[{self.row_slot(base, str(ky))} * {s.out_width} + ow + {p}]" for ky in range(s.kernel[0])]
            code.let(f"offset{p}", " + ".join(parts))
        totals = self._reduce(base, names)
        for v, c in enumerate(channel):
            code.let(f"m{v}", f"multiplier[{ramp(c, _LANES)}]")
        self.position()
        cells = [
            Cell(total, f"m{v}", f"position + {p}", channel[v])
            for p, row in enumerate(totals)
            for v, total in enumerate(row)
            if self.all_channels > 1 or v * _LANES < self.epilogue.stored_channels
        ]
        self.epilogue.finish(code, cells)

    def _counted(self, name: str) -> list[str]:
        """int32 sums in the counters of one position and part, 8 channels each, times the worth of a bit."""
        half = self.machine.width // 2
        acc = [f"{name}_{i}[{ramp(0, half)}]" for i in range(self.counters)]
        if self.bits == 2:
            return [self._wide(f"{name}_w", acc[0])]
        first = f"{acc[0]} - T.shift_left({acc[1]}, T.Broadcast(T.uint16(8), {half}))"
        both = self._wide(f"{name}_w0", first), self._wide(f"{name}_w1", acc[1])
        return [f"T.shift_left({value}, T.Broadcast(1, {_LANES}))" for value in both]

    def _wide(self, name: str, counter: str) -> str:
        """A counter's rows as int32, added."""
        if self.machine.rows == 1:
            return f'T.Cast("int32x8", {counter})'
        value = self.code.let(name, counter)
        return " + ".join(f'T.Cast("int32x8", T.Shuffle([{value}], {list(range(8 * r, 8 * r + 8))}))' for r in (0, 1))

    def _reduce(self, base: str, names: list[list[str]]) -> list[list[str]]:
        """The reduction; returns int32 sums with bias and offset, of each position every 8 channels."""
        s, code = self.s, self.code
        code.let("t_tile", f"ow * {s.stride[1] * s.tables * TABLE_BYTES}")
        code.let("w_tile", f"part * {self.part_bytes}")
        starts = [
            [f"b{v} - T.Broadcast(offset{p}, {_LANES})" for v in range(self.channels * self.counters)]
            for p in range(self.columns)
        ]
        if s.kernel[0] * self.steps <= self.most_steps:
            self._clear(names)
            with self._kernel_row(base):
                self._steps("0", str(self.steps), names)
            return [
                [f"{start} + {sum_}" for start, sum_ in zip(row, self._sums(line), strict=True)]
                for row, line in zip(starts, names, strict=True)
            ]
        lanes = ramp(0, _LANES)
        totals = [[f"s{p}_{v}[{lanes}]" for v in range(len(row))] for p, row in enumerate(starts)]
        for p, row in enumerate(starts):
            for v, start in enumerate(row):
                code.line(f's{p}_{v} = T.alloc_buffer(({_LANES},), "int32")')
                code.line(f"{totals[p][v]} = {start}")
        with self._kernel_row(base), code.block(f"for kc in range({tiles(self.steps, self.most_steps)}):"):
            self._clear(names)
            low = f"kc * {self.most_steps}"
            self._steps(low, f"T.min({low} + {self.most_steps}, {self.steps})", names)
            for row, line in zip(totals, names, strict=True):
                for total, sum_ in zip(row, self._sums(line), strict=True):
                    code.line(f"{total} = {total} + {sum_}")
        return totals

    def _clear(self, names: list[list[str]]) -> None:
        half = self.machine.width // 2
        for name in (name for row in names for name in row):
            for i in range(self.counters):
                self.code.line(f"{name}_{i}[{ramp(0, half)}] = T.Broadcast(T.uint16(0), {half})")

    def _sums(self, line: list[str]) -> list[str]:
        return [value for name in line for value in self._counted(name)]

    @contextmanager
    def _kernel_row(self, base: str) -> Iterator[None]:
        """A loop over kernel rows, `t_row` and `w_row` where the tables and weights of one begin."""
        s, code = self.s, self.code
        with code.block(f"for ky in range({s.kernel[0]}):") if s.kernel[0] > 1 else nullcontext():
            ky = "ky" if s.kernel[0] > 1 else "0"
            code.let("t_row", f"t_tile + {self.row_slot(base, ky)} * {self.row_bytes}")
            code.let("w_row", f"w_tile + {ky} * {self.steps * self.step_bytes}")
            yield

    def _steps(self, low: str, high: str, names: list[list[str]]) -> None:
        with self.code.block(f"for k in range({low}, {high}):"):
            tables = f"t_row + k * {self.step_tables * TABLE_BYTES}"
            self._step(tables, f"w_row + k * {self.step_bytes}", names)

    def _step(self, t: str, w: str, names: list[list[str]]) -> None:
        """Look 2 * sums tables up for each position and part."""
        code, m = self.code, self.machine
        apart = self.s.stride[1] * self.s.tables * TABLE_BYTES
        for row in range(2 // m.rows):  # with vectors of one row, both rows enter the same counters
            for b in range(self.channels):
                for i in range(self.sums // 2):
                    at = f"{w} + {b * self.part_bytes + i * 2 * TABLE_BYTES + row * TABLE_BYTES}"
                    v = code.let(f"w{b}_{row}_{i}", f"W[{ramp(at, m.width)}]")
                    code.let(f"i{b}_{row}_{2 * i}", f"T.bitwise_and({v}, T.Broadcast(T.uint8(15), {m.width}))")
                    code.let(f"i{b}_{row}_{2 * i + 1}", f"T.shift_right({v}, T.Broadcast(T.uint8(4), {m.width}))")
            for p, line in enumerate(names):
                for i in range(self.sums):
                    at = f"{t} + {p * apart + (2 * i + row) * TABLE_BYTES}"
                    code.let(f"t{p}_{row}_{i}", f"TB[{ramp(at, m.width)}]")
                for b, name in enumerate(line):
                    found = [m.find(f"t{p}_{row}_{i}", f"i{b}_{row}_{i}") for i in range(self.sums)]
                    self._count(name, code.let(f"f{p}_{b}_{row}", " + ".join(found)))

    def _count(self, name: str, found: str) -> None:
        """Add the looked-up bytes to the counters."""
        code, half = self.code, self.machine.width // 2
        acc = [f"{name}_{i}[{ramp(0, half)}]" for i in range(self.counters)]
        if self.bits == 2:
            code.line(f"{acc[0]} = {self.machine.add_pairs(acc[0], found)}")
            return
        pairs = code.let(f"{found}_p", f'T.reinterpret("uint16x{half}", {found})')
        code.line(f"{acc[0]} = {acc[0]} + {pairs}")
        code.line(f"{acc[1]} = {acc[1]} + T.shift_right({pairs}, T.Broadcast(T.uint16(8), {half}))")
