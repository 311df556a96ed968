"""The tile of a look-up convolution with tables of 64 bytes: look-ups, additions in bytes, one vpdpbusd, the end.

One step of a tile looks `depth` tables of every kernel column up for every position and block of 16 output channels,
adds as many of the bytes as fit, and one vpdpbusd adds the four bytes of each channel, weighted, to its int32
accumulator.
"""

from __future__ import annotations

from contextlib import ExitStack

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.frames.geometry import BLOCK
from tvm_mpq.kernels.lut import tables
from tvm_mpq.kernels.lut.coding import TABLE_BYTES, coding_of, even_parts
from tvm_mpq.kernels.lut.frame import LookUpFrame
from tvm_mpq.kernels.lut.pack import index_shape
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Script, Task, intrin, ramp
from tvm_mpq.schema import Conv2dWorkload

_DOT = "llvm.x86.avx512.vpdpbusd.512"
_PLANES = -33423871  # bytes 1, -2, 1, -2 as one little-endian int32
_ONES = 16843009  # bytes 1, 1, 1, 1
_UNROLLED = 16  # shorter reduction loops would be unrolled whole, and spill


def build_lut(request: Request, knobs: Knobs) -> Script:
    """The convolution of `request` with knobs {"columns", "blocks", "depth", "band", "order"}."""
    return _Lut(request, knobs).build()


class _Lut(LookUpFrame):
    def __init__(self, request: Request, knobs: Knobs) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.coding = coding_of(request)
        shape = LutShape.of(request.workload, self.coding)
        geometry = knobs["columns"], knobs["blocks"], shape.out_blocks, knobs["band"], knobs["order"]
        super().__init__(shape, request.threads, *geometry)
        self.request, self.workload = request, request.workload
        self.sums = self.coding.sums_limit(request.precision.activation_bits)
        self.depth = min(knobs["depth"], shape.tables)
        self.block_bytes = shape.kernel[0] * shape.lookups * TABLE_BYTES
        self.epilogue = Epilogue(request, BLOCK)
        self.rows = tables.RowBuilder(self.code, shape, request.workload.in_channels)

    def build(self) -> Script:
        s, w, code = self.s, self.workload, self.code
        code.line(f'X = T.decl_buffer(({w.batch * w.in_height * w.in_width * s.in_cells},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({s.out_blocks * self.block_bytes},), "uint8", data=weight.data)')
        code.line(f'TB = T.alloc_buffer(({self.all_slots * s.row_bytes},), "uint8")')
        code.line(f'L = T.alloc_buffer(({self.threads * s.line_bytes},), "uint8")')
        tables.header(code, self.coding)
        code.let("z", 'T.Cast("uint8", Q[0])')
        weights = _ONES if self.coding.signed else _PLANES
        code.let("v_weights", f'T.reinterpret("uint8x64", T.Broadcast(T.int32({weights}), 16))')
        self.epilogue.header(code)
        self.loops()
        weight = ("weight", index_shape(s), "uint8")
        return code.script([*activation_params(self.request), weight, *range_params(self.request)])

    def build_row(self, y: str, slot: str, task: Task) -> None:
        self.rows.build(y, f"({slot}) * {self.s.row_bytes}", task.offset(self.s.line_bytes))

    def locals(self) -> None:
        self.epilogue.locals(self.code)

    def tile(self, base: str) -> None:
        code = self.code
        lanes = ramp(0, BLOCK)
        names = [[f"a{p}_{b}" for b in range(self.channels)] for p in range(self.columns)]
        accs = [[f"{name}[{lanes}]" for name in row] for row in names]
        for name in (name for row in names for name in row):
            code.line(f'{name} = T.alloc_buffer(({BLOCK},), "int32")')
        channel = [f"part * {BLOCK} + {b * BLOCK}" for b in range(self.channels)]
        for b, c in enumerate(channel):
            code.let(f"b{b}", f"bias[{ramp(c, BLOCK)}]")
            for row in accs:
                code.line(f"{row[b]} = b{b}")
        self._reduce(base, accs)
        for b, c in enumerate(channel):
            code.let(f"m{b}", f"multiplier[{ramp(c, BLOCK)}]")
        self.position()
        cells = [
            Cell(accs[p][b], f"m{b}", f"position + {p}", channel[b], b == self.channels - 1)
            for p in range(self.columns)
            for b in range(self.channels)
        ]
        self.epilogue.finish(code, cells)

    def _reduce(self, base: str, accs: list[list[str]]) -> None:
        s, code = self.s, self.code
        kh, kw = s.kernel
        steps, rest = divmod(s.tables, self.depth)
        t_step, w_step = self.depth * TABLE_BYTES, self.depth * kw * TABLE_BYTES
        code.let("t_tile", f"ow * {s.stride[1] * s.tables * TABLE_BYTES}")
        code.let("w_tile", f"part * {self.block_bytes}")

        def row(ky: str) -> str:
            return f"t_tile + {self.row_slot(base, ky)} * {s.row_bytes}"

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
