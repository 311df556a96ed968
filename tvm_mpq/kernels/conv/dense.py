"""The frame of every dense integer convolution: tiles of positions x channels, borders, threads, epilogue.

Input rows that need padding are first copied into a scratch whose border holds the zero point (`border.py`). A tile is
`rows` x `columns` output positions x `blocks` * 16 channels, all accumulators in registers; where a tile does not
divide the map, the last one is moved back and computes some positions twice. The channels that the tiles leave over are
a narrower tile of their own; half a block of them takes half a vector where the machine has one (`Dot.halves`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tvm_mpq.kernels.conv.border import fill_border
from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.conv.packed import Quad
from tvm_mpq.kernels.emit.tiles import split_axis, tiles
from tvm_mpq.kernels.frames.geometry import (
    BLOCK,
    ChannelTiles,
    ChannelWindow,
    Geometry,
    blocks,
    has_half,
    tile_channels,
    useful_threads,
)
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Script, ramp
from tvm_mpq.schema import Conv2dWorkload

PREFETCHED_BYTES = 131_072
"""Weights of a convolution from which they are prefetched; smaller ones gained nothing."""


def build_dense(request: Request, knobs: Knobs, dot: Dot) -> Script:
    """The convolution of `request` with tile knobs {"rows", "columns", "blocks", "order"}."""
    return DenseFrame(request, knobs, dot).build()


@dataclass(frozen=True)
class LaneVector:
    """One accumulator of each position of a tile: `lanes` channels, `offset` channels from the tile's first."""

    offset: int
    lanes: int


class DenseFrame:
    """Writes one convolution; machines with another inner loop override `_reduce`."""

    def __init__(self, request: Request, knobs: Knobs, dot: Dot) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.dot, self.request, self.workload = dot, request, request.workload
        self.threads = useful_threads(request.workload, request.threads)
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
        self.block_bytes = dot.block_bytes(steps)
        self.weight_shape = dot.packed_shape(self.all_blocks, steps)
        x_size = self.g.batch * self.g.in_height * self.g.in_width * self.g.in_cells
        order = "gnhw" if self.all_blocks * self.block_bytes > x_size else "nhwg"
        self.split = split_axis({axis: self.counts[axis] for axis in order}, self.threads)
        if self.threads > 1 and self.split == "g":  # equal tiles that threads can share
            self.parts = [ChannelTiles(0, self.counts["g"], self.blocks, False, True)]
        else:
            self.parts = tile_channels(self.all_blocks, self.blocks, has_half(request, dot.halves))

    def build(self) -> Script:
        g, code = self.g, self.code
        x_size = g.batch * g.in_height * g.in_width * g.in_cells
        code.line(f'XI = T.decl_buffer(({x_size},), "uint8", data=x.data)')
        self.scratch = g.rows * g.row_width * g.in_cells
        if g.bordered:
            code.line(f'X = T.alloc_buffer(({self.threads * self.scratch},), "uint8")')
        else:
            code.line(f'X = T.decl_buffer(({x_size},), "uint8", data=x.data)')
        size = 1
        for extent in self.weight_shape:
            size *= extent
        self.unpacked = self.block_bytes * (self.blocks_at_once if self.dot.unpacks else 0)
        name = "P" if self.dot.unpacks else "W"
        code.line(f'{name} = T.decl_buffer(({size},), "{self.dot.weight_dtype}", data=weight.data)')
        if self.dot.unpacks:
            code.line(f'W = T.alloc_buffer(({self.threads * self.unpacked},), "int8")')
        self.dot.header(code)
        self.epilogue.header(code)
        with ExitStack() as stack:
            if self.threads > 1:
                stack.enter_context(code.block(f"for task in T.parallel({self.threads}):"))
            self._task()
        weight = ("weight", self.weight_shape, self.dot.weight_dtype)
        return code.script([*activation_params(self.request), weight, *range_params(self.request)])

    @property
    def blocks_at_once(self) -> int:
        """Blocks that are unpacked together: those of a tile, or all where tiles change their channels innermost."""
        return max(part.blocks for part in self.parts) if self.order[0] == "g" else self.all_blocks

    def _range(self, axis: str) -> tuple[str, str]:
        """The tiles of one axis that a task does."""
        count = self.counts[axis]
        if self.threads == 1 or axis != self.split:
            return "0", str(count)
        return f"task * {count} // {self.threads}", f"(task + 1) * {count} // {self.threads}"

    def _task(self) -> None:
        g, code = self.g, self.code
        shared = self.threads > 1
        self.epilogue.locals(code)
        if self.dot.unpacks:
            code.let("w_base", f"task * {self.unpacked}" if shared else "0")
            if self.order[0] != "g":
                self.dot.unpack(code, "0", "w_base", self.all_blocks, self.block_bytes)
        with code.block(f"for n in range({', '.join(self._range('n'))}):"):
            code.let("base", f"task * {self.scratch}" if g.bordered and shared else "0")
            if g.bordered:
                fill_border(code, g, self.rows, *self._range("h"))
            self._loops(self.order, self.parts[0])

    def _loops(self, axes: tuple[str, ...], part: ChannelTiles) -> None:
        """The loops over tiles, outermost first."""
        if not axes:
            self._tile(part)
            return
        code, axis, rest = self.code, axes[0], axes[1:]
        if axis == "g":
            for each in self.parts:
                low, high = self._range("g") if each.overlaps else ("0", str(each.count))
                with code.block(f"for g in range({low}, {high}):"):
                    last = f"T.min(g * {each.blocks}, {self.all_blocks - each.blocks})"
                    code.let("block", last if each.overlaps else f"{each.first} + g * {each.blocks}")
                    if self.dot.unpacks and self.order[0] == "g":
                        self.dot.unpack(code, "block", "w_base", each.blocks, self.block_bytes)
                    self._loops(rest, each)
            return
        with code.block(f"for {axis} in range({', '.join(self._range(axis))}):"):
            tile, extent = (self.rows, self.g.out_height) if axis == "h" else (self.columns, self.g.out_width)
            exact = extent % tile == 0
            code.let(f"o{axis}", f"{axis} * {tile}" if exact else f"T.min({axis} * {tile}, {extent - tile})")
            self._loops(rest, part)

    def _vectors(self, part: ChannelTiles) -> list[LaneVector]:
        lanes = self.dot.lanes
        vectors = [LaneVector(offset, lanes) for offset in range(0, part.blocks * BLOCK, lanes)]
        if part.half:
            vectors[-1] = LaneVector(vectors[-1].offset, lanes // 2)
        return vectors

    def _tile(self, part: ChannelTiles) -> None:
        code, dot, vectors = self.code, self.dot, self._vectors(part)
        positions = [(r, c) for r in range(self.rows) for c in range(self.columns)]
        accs = []
        for p in range(len(positions)):
            for v, vector in enumerate(vectors):
                code.line(f'a{p}_{v} = T.alloc_buffer(({vector.lanes},), "int32")')
            accs.append([f"a{p}_{v}[{ramp(0, vector.lanes)}]" for v, vector in enumerate(vectors)])
        code.let("channel", f"block * {BLOCK}")
        for v, vector in enumerate(vectors):
            start = f"T.Broadcast(0, {vector.lanes})"
            if not dot.shift:
                start = code.let(f"b{v}", f"bias[{ramp(f'channel + {vector.offset}', vector.lanes)}]")
            for row in accs:
                code.line(f"{row[v]} = {start}")
        self._reduce(positions, vectors, accs, part)
        self.epilogue.finish(code, self._cells(positions, vectors, accs, part))

    def _cells(
        self, positions: list[tuple[int, int]], vectors: list[LaneVector], accs: list[list[str]], part: ChannelTiles
    ) -> list[Cell]:
        """The epilogue's view of the accumulators; halves are joined in pairs of positions."""
        g, code, dot = self.g, self.code, self.dot
        for v, vector in enumerate(vectors):
            m = f"multiplier[{ramp(f'channel + {vector.offset}', vector.lanes)}]"
            half = vector.lanes < dot.lanes
            code.let(f"m{v}", f"T.Shuffle([{m}, {m}], {list(range(dot.lanes))})" if half else m)
            if dot.shift:
                code.let(f"b{v}", f"bias[{ramp(f'channel + {vector.offset}', vector.lanes)}]")
        places = [f"(n * {g.out_height} + oh + {r}) * {g.out_width} + ow + {c}" for r, c in positions]
        cells, waiting = [], 0
        for p, position in enumerate(places):
            for v, vector in enumerate(vectors):
                if vector.lanes < dot.lanes:
                    if p % 2 == 0 and p + 1 < len(places):
                        waiting = p
                        continue
                    first = waiting if p % 2 else p
                    acc = f"T.Shuffle([{accs[first][v]}, {accs[p][v]}], {list(range(dot.lanes))})"
                    quads = tuple(Quad(places[i], "channel", vector.offset + o) for i in (first, p) for o in (0, 4))
                    cells.append(Cell(acc, f"m{v}", position, "channel", offset=vector.offset, quads=quads))
                    continue
                if self.all_blocks == 1 and vector.offset >= self.epilogue.stored_channels:
                    continue  # half a block past the last channel
                acc = accs[p][v]
                if dot.shift:
                    acc = f"(T.shift_right({acc}, T.Broadcast({dot.shift}, {dot.lanes})) + b{v})"
                reaches_end = vector.offset // BLOCK == part.blocks - 1
                cells.append(Cell(acc, f"m{v}", position, "channel", reaches_end, vector.offset))
        return cells

    def _reduce(
        self, positions: list[tuple[int, int]], vectors: list[LaneVector], accs: list[list[str]], part: ChannelTiles
    ) -> None:
        g, code, dot = self.g, self.code, self.dot
        (kh, kw), width = g.kernel, g.row_width
        merged = g.dilation[1] == 1 and self.window.cells == g.in_cells
        length = (kw if merged else 1) * self.window.cells // dot.channels  # steps of the innermost loop
        plane = "n * " + str(g.in_height) if not g.bordered else "0"
        code.let("x_tile", f"base + ((({plane}) + oh * {g.stride[0]}) * {width} + ow * {g.stride[1]}) * {g.in_cells}")
        offsets = [(r * g.stride[0] * width + c * g.stride[1]) * g.in_cells for r, c in positions]
        with ExitStack() as stack:
            x, w = f"x_tile + {self.window.start_code('block')}", f"block * {self.block_bytes}"
            if dot.unpacks:
                w = "w_base" if self.order[0] == "g" else f"w_base + {w}"
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
            ws = [f"w_row + {vector.offset // dot.lanes * size} + k * {dot.step_bytes}" for vector in vectors]
            large = self.all_blocks * self.block_bytes >= PREFETCHED_BYTES
            if dot.prefetches and large and merged and self.order[0] == "g":
                self._prefetch(part, f"ky * {length} + k" if kh > 1 else "k")
            dot.step(code, xs, ws, accs, vectors[-1].lanes < dot.lanes)

    def _prefetch(self, part: ChannelTiles, step: str) -> None:
        """Ask for the weights of the next tile of channels, a little in every step of this one's tiles of positions.

        In a network weights come from the third-level cache or memory, which the processor's own prefetching hides
        badly where a block of weights serves few positions. Past the last tile the address is out of bounds, which a
        prefetch may be.
        """
        tiles_of_map = self.counts["h"] * self.counts["w"]
        steps = self.g.kernel[0] * self.g.kernel[1] * self.window.cells // self.dot.channels
        stride = -(-part.blocks * self.block_bytes // (steps * tiles_of_map))
        done = f"((h * {self.counts['w']} + w) * {steps} + {step}) * {stride}"
        pointer = f"T.address_of(W[(block + {part.blocks}) * {self.block_bytes} + {done}])"
        self.code.line(f'T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", {pointer}, 0, 3, 1))')
