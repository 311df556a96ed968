"""The look-up convolution around its tables: bands of output rows, tiles of positions x channels, threads, epilogue.

A band's new rows of tables are built, then serve all kernel positions and all output channels of the band. One step of
a tile looks `depth` tables of every kernel column up for every position and block of 16 output channels, adds as many
of the bytes as fit, and one vpdpbusd adds the four bytes of each channel, weighted, to its int32 accumulator.
"""

from __future__ import annotations

from contextlib import ExitStack

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.conv.geometry import BLOCK, split_axis, tiles
from tvm_mpq.kernels.lut import tables
from tvm_mpq.kernels.lut.coding import TABLE_BYTES, coding_of, even_parts
from tvm_mpq.kernels.lut.pack import index_shape
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Task, intrin, ramp
from tvm_mpq.schema import Conv2dWorkload

_DOT = "llvm.x86.avx512.vpdpbusd.512"
_PLANES = -33423871  # bytes 1, -2, 1, -2 as one little-endian int32
_ONES = 16843009  # bytes 1, 1, 1, 1
_UNROLLED = 16  # shorter reduction loops would be unrolled whole, and spill


def build_lut(request: Request, knobs: Knobs) -> PrimFunc:
    """The convolution of `request` with knobs {"columns", "blocks", "depth", "band", "order"}."""
    return _Lut(request, knobs).build()


class _Lut:
    def __init__(self, request: Request, knobs: Knobs) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.request, self.workload = request, request.workload
        self.coding = coding_of(request)
        self.s = LutShape.of(request.workload, self.coding)
        self.sums = self.coding.sums_limit(request.precision.activation_bits)
        self.depth = min(knobs["depth"], self.s.tables)
        self.columns = min(knobs["columns"], self.s.out_width)
        self.blocks = min(knobs["blocks"], self.s.out_blocks)
        self.band = min(knobs["band"], self.s.out_height)
        self.order: str = knobs["order"]
        self.slots = self.s.slots(self.band)
        self.row_bytes = self.s.row_bytes
        self.block_bytes = self.s.kernel[0] * self.s.lookups * TABLE_BYTES
        self.epilogue = Epilogue(request, BLOCK)
        self.code = Code()
        self.whole = self.band == self.s.out_height
        self.rows = tables.RowBuilder(self.code, self.s, self.workload.in_channels)

    def build(self) -> PrimFunc:
        s, w, code, threads = self.s, self.workload, self.code, self.request.threads
        code.line(f'X = T.decl_buffer(({w.batch * w.in_height * w.in_width * s.in_cells},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({s.out_blocks * self.block_bytes},), "uint8", data=weight.data)')
        sets = 1 if self.whole else threads  # a whole map of tables is shared
        self.set_bytes = self.slots * self.row_bytes
        code.line(f'TB = T.alloc_buffer(({sets * self.set_bytes},), "uint8")')
        code.line(f'L = T.alloc_buffer(({threads * s.line_bytes},), "uint8")')
        tables.header(code, self.coding)
        code.let("z", 'T.Cast("uint8", Q[0])')
        weights = _ONES if self.coding.signed else _PLANES
        code.let("v_weights", f'T.reinterpret("uint8x64", T.Broadcast(T.int32({weights}), 16))')
        self.epilogue.header(code)
        if self.whole:
            self._whole()
        else:
            with self._parallel() as task:
                self._bands(task)
        weight = ("weight", index_shape(s), "uint8")
        return code.to_prim_func([*activation_params(self.request), weight, *range_params(self.request)])

    def _parallel(self) -> Task:
        return Task(self.code, self.request.threads)

    def _whole(self) -> None:
        """All tables of an image, then all outputs."""
        s, code = self.s, self.code
        with code.block(f"for n in range({s.batch}):"):
            with self._parallel() as task, code.block(f"for y in range({', '.join(task.part(s.rows))}):"):
                self.rows.build("y", f"y * {self.row_bytes}", task.offset(s.line_bytes))
            groups = tiles(s.out_blocks, self.blocks)
            by_rows = split_axis({"rows": s.out_height, "groups": groups}, self.request.threads) == "rows"
            with self._parallel() as task:
                self.epilogue.locals(code)
                rows = ", ".join(task.part(s.out_height)) if by_rows else f"0, {s.out_height}"
                self._tiles(rows, f"0, {groups}" if by_rows else ", ".join(task.part(groups)), "0")

    def _bands(self, task: Task) -> None:
        """Bands of output rows; the rows of tables that a band shares with the one before are still there."""
        s, code = self.s, self.code
        self.epilogue.locals(code)
        base = task.offset(self.set_bytes)
        with code.block(f"for n in range({s.batch}):"):
            low, high = task.part(s.out_height)
            code.let("row_low", low)
            code.let("row_high", high)
            with code.block(f"for h in range((row_high - row_low + {self.band - 1}) // {self.band}):"):
                code.let("first", f"row_low + h * {self.band}")
                code.let("last", f"T.min(first + {self.band}, row_high)")
                kept = f"(first - 1) * {s.stride[0]} + {s.kernel[0]}"  # rows up to here were built for the last band
                start = f"T.if_then_else(h == 0, first * {s.stride[0]}, T.max(first * {s.stride[0]}, {kept}))"
                code.let("new", start)
                with code.block(f"for yi in range((last - 1) * {s.stride[0]} + {s.kernel[0]} - new):"):
                    code.let("y", "new + yi")
                    self.rows.build("y", f"{base} + y % {self.slots} * {self.row_bytes}", task.offset(s.line_bytes))
                self._tiles("first, last", f"0, {tiles(s.out_blocks, self.blocks)}", base)

    def _tiles(self, rows: str, groups: str, base: str) -> None:
        s, code = self.s, self.code
        loops = [("oh", rows), ("tile", f"0, {tiles(s.out_width, self.columns)}"), ("g", groups)]
        with ExitStack() as stack:
            for name, extent in loops if self.order == "positions" else [loops[2], *loops[:2]]:
                stack.enter_context(code.block(f"for {name} in range({extent}):"))
            self._start("ow", "tile", self.columns, s.out_width)
            self._start("block", "g", self.blocks, s.out_blocks)
            self._tile(base)

    def _start(self, name: str, index: str, tile: int, extent: int) -> None:
        exact = extent % tile == 0
        self.code.let(name, f"{index} * {tile}" if exact else f"T.min({index} * {tile}, {extent - tile})")

    def _tile(self, base: str) -> None:
        s, code = self.s, self.code
        lanes = ramp(0, BLOCK)
        names = [[f"a{p}_{b}" for b in range(self.blocks)] for p in range(self.columns)]
        accs = [[f"{name}[{lanes}]" for name in row] for row in names]
        for name in (name for row in names for name in row):
            code.line(f'{name} = T.alloc_buffer(({BLOCK},), "int32")')
        channel = [f"block * {BLOCK} + {b * BLOCK}" for b in range(self.blocks)]
        for b, c in enumerate(channel):
            code.let(f"b{b}", f"bias[{ramp(c, BLOCK)}]")
            for row in accs:
                code.line(f"{row[b]} = b{b}")
        self._reduce(base, accs)
        for b, c in enumerate(channel):
            code.let(f"m{b}", f"multiplier[{ramp(c, BLOCK)}]")
        if s.folded:
            code.let("position", f"T.min(oh * {s.out_width}, {s.folded - s.out_width}) + ow")
        else:
            code.let("position", f"(n * {s.out_height} + oh) * {s.out_width} + ow")
        cells = [
            Cell(accs[p][b], f"m{b}", f"position + {p}", channel[b], b == self.blocks - 1)
            for p in range(self.columns)
            for b in range(self.blocks)
        ]
        self.epilogue.finish(code, cells)

    def _reduce(self, base: str, accs: list[list[str]]) -> None:
        s, code = self.s, self.code
        kh, kw = s.kernel
        steps, rest = divmod(s.tables, self.depth)
        t_step, w_step = self.depth * TABLE_BYTES, self.depth * kw * TABLE_BYTES
        code.let("t_tile", f"{base} + ow * {s.stride[1] * s.tables * TABLE_BYTES}")
        code.let("w_tile", f"block * {self.block_bytes}")

        def row(ky: str) -> str:
            y = f"(oh * {s.stride[0]} + {ky})"
            return f"t_tile + {y if self.slots == s.rows else f'{y} % {self.slots}'} * {self.row_bytes}"

        if kh > 1 and not rest and steps < _UNROLLED:
            with code.block(f"for k in range({kh * steps}):"):
                code.let("ky", f"k // {steps}")
                code.let("t", f"{row('ky')} + (k - ky * {steps}) * {t_step}")
                self._step("t", f"w_tile + k * {w_step}", accs, self.depth)
            return
        with ExitStack() as stack:
            if kh > 1:
                stack.enter_context(code.block(f"for ky in range({kh}):"))
            code.let("t_row", row("ky" if kh > 1 else "0"))
            code.let("w_row", f"w_tile + ky * {s.lookups * TABLE_BYTES}" if kh > 1 else "w_tile")
            with code.block(f"for k in range({steps}):"):
                self._step(f"t_row + k * {t_step}", f"w_row + k * {w_step}", accs, self.depth)
            if rest:
                self._step(f"t_row + {steps * t_step}", f"w_row + {steps * w_step}", accs, rest, "r")

    def _step(self, t: str, w: str, accs: list[list[str]], depth: int, mark: str = "") -> None:
        """`depth` tables of all kernel columns, in chains of as many look-ups as a byte can hold."""
        s, code = self.s, self.code
        order = [(table, column) for table in range(depth) for column in range(s.kernel[1])]
        chains = even_parts(len(order), self.sums)
        for c, (start, stop) in enumerate(chains):
            for b in range(len(accs[0])):
                for i in range(start, stop):
                    at = f"{w} + {b * self.block_bytes + i * TABLE_BYTES}"
                    code.let(f"w{mark}{b}_{i}", f"W[{ramp(at, TABLE_BYTES)}]")
            loaded: set[str] = set()
            for p, row in enumerate(accs):
                names = []
                for table, column in order[start:stop]:
                    x = p * s.stride[1] + column
                    name = f"t{mark}{c}_{x}_{table}"
                    if name not in loaded:
                        at = f"{t} + {(x * s.tables + table) * TABLE_BYTES}"
                        loaded.add(code.let(name, f"TB[{ramp(at, TABLE_BYTES)}]"))
                    names.append(name)
                for b, acc in enumerate(row):
                    indices = [f"w{mark}{b}_{i}" for i in range(start, stop)]
                    pairs = zip(names, indices, strict=True)
                    found = " + ".join(intrin("uint8x64", tables.PERMUTE, *pair) for pair in pairs)
                    factors = ("v_weights", found) if self.coding.signed else (found, "v_weights")
                    code.line(f"{acc} = {intrin('int32x16', _DOT, acc, *factors)}")
