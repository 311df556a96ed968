"""The tile of a look-up convolution with nibbles: sums of looked-up bytes into 16 bit counters, then int32 and the end.

One step looks 2 * sums tables up for every position and vector of output channels. The looked-up bytes are added, and
their sum enters 16 bit counters: one, where neighbouring bytes are bits of one channel and are added; else two, of 8
channels each. Before a counter can overflow it moves into int32. Planes of bits follow one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.lut.frame import LookUpFrame
from tvm_mpq.kernels.nibble_lut.coding import TABLE_BYTES, coding_of
from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.nibble_lut.pack import packed_shape
from tvm_mpq.kernels.nibble_lut.shape import NibbleShape
from tvm_mpq.kernels.nibble_lut.tables import NibbleRows
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Script, Task, ramp
from tvm_mpq.schema import Conv2dWorkload

_LANES = 8  # int32 lanes of the epilogue


def build_nibble_lut(request: Request, knobs: Knobs, machine: Machine) -> Script:
    """The convolution of `request` with knobs {"columns", "parts", "sums", "band", "order"}."""
    return _NibbleLut(request, knobs, machine).build()


def part_count(request: Request) -> int:
    """Vectors of output channels that cover all stored channels."""
    return -(-Epilogue(request, _LANES).stored_channels // coding_of(request).part_channels)


class _NibbleLut(LookUpFrame):
    def __init__(self, request: Request, knobs: Knobs, machine: Machine) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        shape = NibbleShape.of_workload(request.workload)
        geometry = knobs["columns"], knobs["parts"], part_count(request), knobs["band"], knobs["order"]
        super().__init__(shape, request.threads, *geometry)
        self.request, self.workload, self.machine = request, request.workload, machine
        self.shape = shape
        self.coding = coding_of(request)
        self.sums: int = knobs["sums"]
        self.step_tables = 2 * self.sums
        self.steps = shape.steps(self.step_tables)
        self.row_bytes = shape.table_row_bytes(self.step_tables)
        self.step_bytes = self.sums * TABLE_BYTES
        self.plane_bytes = shape.kernel[0] * self.steps * self.step_bytes
        self.part_bytes = self.coding.planes * self.plane_bytes
        counted = self.step_tables // machine.rows  # tables that enter a counter in one step
        self.most_steps: int = self.coding.lookups_limit(request.precision.activation_bits) // counted
        self.counters = self.coding.part_channels // _LANES
        self.epilogue = Epilogue(request, _LANES)
        self.rows = NibbleRows(self.code, shape, request.workload.in_channels, self.step_tables)

    def build(self) -> Script:
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
        weight = ("weight", packed_shape(self.shape, self.coding, self.all_channels, self.sums), "uint8")
        return code.script([*activation_params(self.request), weight, *range_params(self.request)])

    def build_row(self, y: str, slot: str, task: Task) -> None:
        self.rows.build_row(y, slot, task.offset(self.s.line_bytes), task.offset(self.s.columns))

    def locals(self) -> None:
        self.epilogue.locals(self.code)

    def tile(self, base: str) -> None:
        s, code, width = self.s, self.code, self.coding.part_channels
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
            code.let(f"offset{p}", f"({' + '.join(parts)}) * {self.coding.offset}")
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
        """int32 sums in the counters of one position and part, 8 channels each, times the weights' factor."""
        counters = self._counters(name)
        if self.coding.beside == 1:
            counters = self.machine.halves(counters)
        sums = [self._wide(f"{name}_w{i}", counter) for i, counter in enumerate(counters)]
        factor = self.coding.factor
        return sums if factor == 1 else [f"({value}) * T.Broadcast({factor}, {_LANES})" for value in sums]

    def _counters(self, name: str) -> list[str]:
        return [f"{name}_{i}[{ramp(0, self.machine.width // 2)}]" for i in range(self.counters)]

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
        if self.coding.planes == 1 and self._fits:
            self._window(base, names)
            return [
                [f"{start} + {sum_}" for start, sum_ in zip(row, self._sums(line), strict=True)]
                for row, line in zip(starts, names, strict=True)
            ]
        totals = [[f"s{p}_{v}[{ramp(0, _LANES)}]" for v in range(len(row))] for p, row in enumerate(starts)]
        for p, row in enumerate(starts):
            for v, start in enumerate(row):
                code.line(f's{p}_{v} = T.alloc_buffer(({_LANES},), "int32")')
                code.line(f"{totals[p][v]} = {start}")
        with code.block(f"for plane in range({self.coding.planes}):") if self.coding.planes > 1 else nullcontext():
            if self._fits:
                self._window(base, names)
                self._move(names, totals)
            else:
                self._chunks(base, names, totals)
        return totals

    @property
    def _fits(self) -> bool:
        """Whether the counters hold the sums of a whole window."""
        return self.s.kernel[0] * self.steps <= self.most_steps

    def _window(self, base: str, names: list[list[str]]) -> None:
        """Count everything."""
        self._clear(names)
        with self._kernel_row(base):
            self._steps("0", str(self.steps), names)

    def _chunks(self, base: str, names: list[list[str]], totals: list[list[str]]) -> None:
        """Count as many steps as the counters hold, move the sums, and so on."""
        with self._kernel_row(base), self.code.block(f"for kc in range({tiles(self.steps, self.most_steps)}):"):
            self._clear(names)
            low = f"kc * {self.most_steps}"
            self._steps(low, f"T.min({low} + {self.most_steps}, {self.steps})", names)
            self._move(names, totals)

    def _move(self, names: list[list[str]], totals: list[list[str]]) -> None:
        """Add what is counted to the totals, times what the plane's bits are worth."""
        for row, line in zip(totals, names, strict=True):
            for total, sum_ in zip(row, self._sums(line), strict=True):
                worth = f"T.shift_left({sum_}, T.Broadcast(plane, {_LANES}))" if self.coding.planes > 1 else sum_
                self.code.line(f"{total} = {total} + {worth}")

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
            w = f"w_tile + plane * {self.plane_bytes}" if self.coding.planes > 1 else "w_tile"
            code.let("w_row", f"{w} + {ky} * {self.steps * self.step_bytes}")
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
        counters = self._counters(name)
        if self.coding.beside > 1:
            self.code.line(f"{counters[0]} = {self.machine.add_pairs(counters[0], found)}")
        else:
            self.machine.count(self.code, counters, found)
