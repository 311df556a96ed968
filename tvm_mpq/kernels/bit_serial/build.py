"""The tile of a bit-serial convolution: bits in which words of activations and weights differ are counted.

For a weight w of -1 or 1 and a bit a of an activation, w * a = [w = 1] - [w = 1 differs from a]. So a sum of products
is the number of the channel's positive weights, a constant, less the ones in the exclusive or; a plane of bits of the
activations counts for as much as its bit.
"""

from __future__ import annotations

from contextlib import nullcontext

from tvm_mpq.kernels.bit_serial.pack import packed_shape
from tvm_mpq.kernels.bit_serial.rows import BitRows
from tvm_mpq.kernels.bit_serial.shape import UNIT_BYTES, WORD_BYTES, BitShape
from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.frames.geometry import BLOCK, PARALLEL_MACS
from tvm_mpq.kernels.lut.frame import LookUpFrame
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Script, Task, ramp
from tvm_mpq.schema import Conv2dWorkload

_FASTER = 5  # than the products that PARALLEL_MACS speaks of


def build_bit_serial(request: Request, knobs: Knobs) -> Script:
    """The convolution of `request` with knobs {"columns", "blocks", "band", "order"}."""
    return _BitSerial(request, knobs).build()


class _BitSerial(LookUpFrame):
    def __init__(self, request: Request, knobs: Knobs) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.request, self.workload = request, request.workload
        self.shape = BitShape.of_workload(request.workload)
        threads = request.threads if request.workload.macs >= _FASTER * PARALLEL_MACS else 1
        geometry = knobs["columns"], knobs["blocks"], self.shape.out_blocks, knobs["band"], knobs["order"]
        super().__init__(self.shape, threads, *geometry)
        self.planes = request.precision.activation_bits
        self.block_words = self.shape.kernel[0] * self.shape.words * BLOCK
        self.epilogue = Epilogue(request, BLOCK)
        self.rows = BitRows(self.code, self.shape, request.workload.in_channels, self.planes)

    def build(self) -> Script:
        s, w, code = self.shape, self.workload, self.code
        code.line(f'X = T.decl_buffer(({w.batch * w.in_height * w.in_width * s.in_cells},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({s.out_blocks * self.block_words},), "int32", data=weight.data)')
        code.line(f'PB = T.alloc_buffer(({self.all_slots * self.planes * s.unit_row_bytes},), "uint8")')
        code.line(f'L = T.alloc_buffer(({self.threads * s.line_bytes},), "uint8")')
        code.let("z", 'T.Cast("uint8", Q[0])')
        self.epilogue.header(code)
        self.loops()
        weight = ("weight", packed_shape(s), "int32")
        return code.script([*activation_params(self.request), weight, *range_params(self.request)])

    def build_row(self, y: str, slot: str, task: Task) -> None:
        self.rows.build_row(y, slot, task.offset(self.s.line_bytes))

    def locals(self) -> None:
        self.epilogue.locals(self.code)

    def tile(self, base: str) -> None:
        code = self.code
        tile = [(p, b) for p in range(self.columns) for b in range(self.channels)]
        channel = [f"part * {BLOCK} + {b * BLOCK}" for b in range(self.channels)]
        for b, c in enumerate(channel):
            code.let(f"b{b}", f"bias[{ramp(c, BLOCK)}]")
        for p, b in tile:
            for i in range(self.planes):
                code.line(f'a{p}_{b}_{i} = T.alloc_buffer(({BLOCK},), "int32")')
                code.line(f"{self._acc(p, b, i)} = {f'T.Broadcast(0, {BLOCK})' if i else f'b{b}'}")
        self._reduce(base)
        for b, c in enumerate(channel):
            code.let(f"m{b}", f"multiplier[{ramp(c, BLOCK)}]")
        self.position()
        cells = [
            Cell(self._total(p, b), f"m{b}", f"position + {p}", channel[b], b == self.channels - 1) for p, b in tile
        ]
        self.epilogue.finish(code, cells)

    def _acc(self, position: int, block: int, plane: int) -> str:
        return f"a{position}_{block}_{plane}[{ramp(0, BLOCK)}]"

    def _total(self, position: int, block: int) -> str:
        rest = [
            f"T.shift_left({self._acc(position, block, i)}, T.Broadcast({i}, {BLOCK}))" for i in range(1, self.planes)
        ]
        return " + ".join([self._acc(position, block, 0), *rest])

    def _reduce(self, base: str) -> None:
        s, code = self.shape, self.code
        whole = s.words - s.ends_in_half
        with code.block(f"for ky in range({s.kernel[0]}):") if s.kernel[0] > 1 else nullcontext():
            ky = "ky" if s.kernel[0] > 1 else "0"
            row = f"{self.row_slot(base, ky)} * {self.planes * s.unit_row_bytes}"
            code.let("x_row", f"{row} + ow * {s.stride[1] * s.tables * UNIT_BYTES}")
            code.let("w_row", f"part * {self.block_words} + {ky} * {s.words * BLOCK}")
            if whole:
                with code.block(f"for k in range({whole}):"):
                    self._step(f"x_row + k * {WORD_BYTES}", f"w_row + k * {BLOCK}")
            if s.ends_in_half:
                self._step(f"x_row + {whole * WORD_BYTES}", f"w_row + {whole * BLOCK}", half=True)

    def _step(self, x: str, w: str, half: bool = False) -> None:
        """One word of every position and plane against one of every block of channels."""
        s, code, mark = self.shape, self.code, "_half" if half else ""
        for b in range(self.channels):
            code.let(f"w{b}{mark}", f"W[{ramp(f'{w} + {b * self.block_words}', BLOCK)}]")
        for p in range(self.columns):
            for i in range(self.planes):
                at = f"{x} + {p * s.stride[1] * s.tables * UNIT_BYTES + i * s.unit_row_bytes}"
                word = f'T.reinterpret("int32", PB[{ramp(at, WORD_BYTES)}])'
                if half:  # what follows belongs to the next position
                    word = f'T.Cast("int32", T.reinterpret("uint16", PB[{ramp(at, UNIT_BYTES)}]))'
                bits = code.let(f"x{p}_{i}{mark}", f"T.Broadcast({word}, {BLOCK})")
                for b in range(self.channels):
                    acc = self._acc(p, b, i)
                    code.line(f"{acc} = {acc} - T.popcount(T.bitwise_xor({bits}, w{b}{mark}))")
