"""The frame of every dense integer convolution: tiles of positions x channels, borders, threads, epilogue.

Input rows that need padding are first copied into a scratch whose border holds the zero point, so that the reduction
loop never asks where it is. A tile is `rows` x `columns` output positions x `blocks` * 16 channels, all accumulators in
registers; where a tile does not divide the map, the last one is moved back and computes some positions twice.
"""

from __future__ import annotations

from contextlib import ExitStack

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.conv.geometry import BLOCK, ChannelWindow, Geometry, blocks, split_axis, tiles
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, ramp
from tvm_mpq.schema import Conv2dWorkload


def build_dense(request: Request, knobs: Knobs, dot: Dot) -> PrimFunc:
    """The convolution of `request` with tile knobs {"rows", "columns", "blocks", "order"}."""
    return _Dense(request, knobs, dot).build()


class _Dense:
    def __init__(self, request: Request, knobs: Knobs, dot: Dot) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.dot, self.request, self.workload = dot, request, request.workload
        self.g = Geometry.of(request.workload, request.out_bits)
        self.rows = min(knobs["rows"], self.g.out_height)
        self.columns = min(knobs["columns"], self.g.out_width)
        self.window = ChannelWindow.of(request.workload, dot.channels)
        self.all_blocks = blocks(request.workload.out_channels)
        self.blocks = min(knobs["blocks"], self.all_blocks) if request.workload.groups == 1 else 1
        self.order = ("g", "h", "w") if knobs["order"] == "channels" else ("h", "w", "g")
        self.epilogue = Epilogue(request, dot.lanes)
        self.code = Code()
        self.counts = {
            "n": self.g.batch,
            "h": tiles(self.g.out_height, self.rows),
            "w": tiles(self.g.out_width, self.columns),
            "g": tiles(self.all_blocks, self.blocks),
        }
        steps = self.g.kernel[0] * self.g.kernel[1] * self.window.cells // dot.channels
        self.block_bytes = steps * dot.step_bytes * (BLOCK // dot.lanes)
        self.weight_shape = dot.packed_shape(self.all_blocks, steps)

    def build(self) -> PrimFunc:
        g, code, threads = self.g, self.code, self.request.threads
        x_size = g.batch * g.in_height * g.in_width * g.in_cells
        code.line(f'XI = T.decl_buffer(({x_size},), "uint8", data=x.data)')
        w_size = self.all_blocks * self.block_bytes
        code.line(f'W = T.decl_buffer(({w_size},), "{self.dot.weight_dtype}", data=weight.data)')
        scratch = g.rows * g.row_width * g.in_cells
        if g.bordered:
            code.line(f'X = T.alloc_buffer(({threads * scratch},), "uint8")')
        else:
            code.line(f'X = T.decl_buffer(({x_size},), "uint8", data=x.data)')
        self.dot.header(code)
        self.epilogue.header(code)
        order = "gnhw" if w_size > x_size else "nhwg"
        self.split = split_axis({axis: self.counts[axis] for axis in order}, threads)
        with ExitStack() as stack:
            if threads > 1:
                stack.enter_context(code.block(f"for task in T.parallel({threads}):"))
            self._task(scratch)
        weight = ("weight", self.weight_shape, self.dot.weight_dtype)
        return code.to_prim_func([*activation_params(self.request), weight, *range_params(self.request)])

    def _range(self, axis: str) -> tuple[str, str]:
        """The tiles of one axis that a task does."""
        count, threads = self.counts[axis], self.request.threads
        if threads == 1 or axis != self.split:
            return "0", str(count)
        return f"task * {count} // {threads}", f"(task + 1) * {count} // {threads}"

    def _task(self, scratch: int) -> None:
        g, code = self.g, self.code
        self.epilogue.locals(code)
        with ExitStack() as stack:
            stack.enter_context(code.block(f"for n in range({', '.join(self._range('n'))}):"))
            code.let("base", f"task * {scratch}" if g.bordered and self.request.threads > 1 else "0")
            if g.bordered:
                self._fill_border()
            for axis in self.order:
                stack.enter_context(code.block(f"for {axis} in range({', '.join(self._range(axis))}):"))
                if axis == "h":
                    self._tile_start("oh", "h", self.rows, g.out_height)
                elif axis == "w":
                    self._tile_start("ow", "w", self.columns, g.out_width)
                else:
                    self._tile_start("block", "g", self.blocks, self.all_blocks)
            self._tile()

    def _tile_start(self, name: str, index: str, tile: int, extent: int) -> None:
        exact = extent % tile == 0
        self.code.let(name, f"{index} * {tile}" if exact else f"T.min({index} * {tile}, {extent - tile})")

    def _fill_border(self) -> None:
        """Copy the rows this task reads into its scratch, zero points around them."""
        g, code = self.g, self.code
        top, left, _, right = g.padding
        low, high = self._range("h")
        code.let("z", 'T.Cast("uint8", Q[0])')
        reach = (self.rows - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1
        first = f"T.min(({low}) * {self.rows}, {g.out_height - self.rows}) * {g.stride[0]}"
        last = f"T.min(({high}) * {self.rows} - {self.rows}, {g.out_height - self.rows}) * {g.stride[0]} + {reach}"
        row_bytes, wide = g.in_width * g.in_cells, g.row_width * g.in_cells
        with code.block(f"for y in range({first}, {last}):"):
            code.let("row", f"base + y * {wide}")
            with code.block(f"if T.And({top} <= y, y < {top + g.in_height}):"):
                self._fill("row", left * g.in_cells, "yl")
                code.let("source", f"(n * {g.in_height} + y - {top}) * {row_bytes}")
                self._copy(f"row + {left * g.in_cells}", "source", row_bytes)
                self._fill(f"row + {left * g.in_cells + row_bytes}", right * g.in_cells, "yr")
            with code.block("else:"):
                self._fill("row", wide, "yt")

    def _fill(self, offset: str, count: int, index: str) -> None:
        for start, size, times in _chunks(count):
            if times > 1:
                with self.code.block(f"for {index} in range({times}):"):
                    self.code.line(
                        f"X[{ramp(f'{offset} + {start} + {index} * {size}', size)}] = T.Broadcast(z, {size})"
                    )
            else:
                self.code.line(f"X[{ramp(f'{offset} + {start}', size)}] = T.Broadcast(z, {size})")

    def _copy(self, target: str, source: str, count: int) -> None:
        for start, size, times in _chunks(count):
            with self.code.block(f"for i in range({times}):"):
                at = f"{start} + i * {size}"
                self.code.line(f"X[{ramp(f'{target} + {at}', size)}] = XI[{ramp(f'{source} + {at}', size)}]")

    def _tile(self) -> None:
        g, code, dot = self.g, self.code, self.dot
        per_block = BLOCK // dot.lanes
        vectors = [(b, v) for b in range(self.blocks) for v in range(per_block)]
        positions = [(r, c) for r in range(self.rows) for c in range(self.columns)]
        names = [[f"a{p}_{v}" for v in range(len(vectors))] for p in range(len(positions))]
        lanes = ramp(0, dot.lanes)
        accs = [[f"{name}[{lanes}]" for name in row] for row in names]
        for row in names:
            for name in row:
                code.line(f'{name} = T.alloc_buffer(({dot.lanes},), "int32")')
        channel = [f"block * {BLOCK} + {b * BLOCK + v * dot.lanes}" for b, v in vectors]
        for v, c in enumerate(channel):
            start = f"T.Broadcast(0, {dot.lanes})" if dot.shift else code.let(f"b{v}", f"bias[{ramp(c, dot.lanes)}]")
            for row in accs:
                code.line(f"{row[v]} = {start}")
        self._reduce(positions, vectors, accs)
        cells = []
        for v, c in enumerate(channel):
            code.let(f"m{v}", f"multiplier[{ramp(c, dot.lanes)}]")
            if dot.shift:
                code.let(f"b{v}", f"bias[{ramp(c, dot.lanes)}]")
        for p, (r, col) in enumerate(positions):
            position = f"(n * {g.out_height} + oh + {r}) * {g.out_width} + ow + {col}"
            for v, (b, part) in enumerate(vectors):
                if self.all_blocks == 1 and part * dot.lanes >= self.epilogue.stored_channels:
                    continue  # half a block past the last channel
                acc = accs[p][v]
                if dot.shift:
                    acc = f"(T.shift_right({acc}, T.Broadcast({dot.shift}, {dot.lanes})) + b{v})"
                cells.append(Cell(acc, f"m{v}", position, channel[v], b == self.blocks - 1))
        self.epilogue.finish(code, cells)

    def _reduce(self, positions: list[tuple[int, int]], vectors: list[tuple[int, int]], accs: list[list[str]]) -> None:
        g, code, dot = self.g, self.code, self.dot
        (kh, kw), width = g.kernel, g.row_width
        merged = g.dilation[1] == 1 and self.window.cells == g.in_cells
        length = (kw if merged else 1) * self.window.cells // dot.channels  # steps of the innermost loop
        plane = "n * " + str(g.in_height) if not g.bordered else "0"
        code.let("x_tile", f"base + ((({plane}) + oh * {g.stride[0]}) * {width} + ow * {g.stride[1]}) * {g.in_cells}")
        offsets = [(r * g.stride[0] * width + c * g.stride[1]) * g.in_cells for r, c in positions]
        with ExitStack() as stack:
            x, w = f"x_tile + {self.window.start_code('block')}", f"block * {self.block_bytes}"
            if kh > 1:
                stack.enter_context(code.block(f"for ky in range({kh}):"))
                x += f" + ky * {g.dilation[0] * width * g.in_cells}"
                w += f" + ky * {kw * self.window.cells // dot.channels * dot.step_bytes}"
            if kw > 1 and not merged:
                stack.enter_context(code.block(f"for kx in range({kw}):"))
                x += f" + kx * {g.dilation[1] * g.in_cells}"
                w += f" + kx * {length * dot.step_bytes}"
            code.let("x_row", x)
            code.let("w_row", w)
            stack.enter_context(code.block(f"for k in range({length}):"))
            xs = [f"x_row + k * {dot.channels} + {offset}" for offset in offsets]
            size = self.block_bytes // (BLOCK // dot.lanes)
            ws = [f"w_row + {b * self.block_bytes + v * size} + k * {dot.step_bytes}" for b, v in vectors]
            dot.step(code, xs, ws, accs)


def _chunks(count: int) -> list[tuple[int, int, int]]:
    """(start, size, times) that cover `count` bytes, in vectors of 64 bytes and smaller ones for the rest."""
    out, start = [], 0
    for size in (64, 32, 16, 8, 4):
        times = (count - start) // size
        if times:
            out.append((start, size, times))
            start += times * size
    return out
