"""Depthwise convolution by four-way byte products over vertically interleaved rows.

For a tile of output rows, every input column of 16 channels becomes vectors of [16 channels][4 rows] in a strip that
stays in the first-level cache; border columns and rows hold the zero point there. One product then adds four rows of a
column, and the same vector serves several output rows through weights shifted by a row: the weights of (kernel column,
output row, group of 4 rows) are 64 bytes, zero where the row does not belong to the window.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.conv.geometry import BLOCK, blocks, even_tile, split_axis, tiles
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, intrin, ramp
from tvm_mpq.schema import Conv2dWorkload, padded_channels

_DOT = "llvm.x86.avx512.vpdpbusd.512"


@dataclass(frozen=True)
class Window:
    """Which groups of four input rows each output row of a tile of `rows` needs."""

    rows: int
    kernel: int
    stride: int
    dilation: int

    @property
    def reach(self) -> int:
        """Input rows of the tile."""
        return (self.rows - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def groups(self) -> int:
        return -(-self.reach // 4)

    def taps(self, row: int) -> list[tuple[int, int]]:
        """(kernel row, input row of the tile) of one output row."""
        return [(k, row * self.stride + k * self.dilation) for k in range(self.kernel)]

    def pairs(self) -> list[tuple[int, int]]:
        """All (output row, group) with a product."""
        return sorted({(r, y // 4) for r in range(self.rows) for _, y in self.taps(r)})


def window(w: Conv2dWorkload, rows: int) -> Window:
    return Window(min(rows, w.out_height), w.kernel[0], w.stride[0], w.dilation[0])


def pack_depthwise(w: Conv2dWorkload, knobs: Knobs, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """int8[C, KH, KW, 1] -> int8[C/16, KW, pairs, 16, 4] for the tile height of `knobs`."""
    win = window(w, knobs["rows"])
    pairs = win.pairs()
    out = np.zeros((blocks(w.out_channels), BLOCK, w.kernel[1], len(pairs), 4), np.int8)
    flat = out.reshape(-1, w.kernel[1], len(pairs), 4)
    for p, (row, group) in enumerate(pairs):
        for k, y in win.taps(row):
            if y // 4 == group:
                flat[: w.out_channels, :, p, y % 4] = weight[:, k, :, 0]
    return np.ascontiguousarray(out.transpose(0, 2, 3, 1, 4))


def depthwise_knobs(request: Request) -> list[Knobs]:
    """Small tiles first: two output rows share an interleaved column only at stride 1."""
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    out: list[Knobs] = []
    for rows in (2, 1, 4) if w.stride[0] == 1 else (1, 2):
        rows = min(rows, w.out_height)
        for limit in (max(2, 8 // rows), 7, 14 // rows):
            columns = w.out_width if w.out_width == 7 and rows < 4 else even_tile(w.out_width, limit)
            knobs = {"rows": rows, "columns": columns}
            if knobs not in out:
                out.append(knobs)
    return out


def build_depthwise(request: Request, knobs: Knobs) -> PrimFunc:
    return _Depthwise(request, knobs).build()


class _Depthwise:
    def __init__(self, request: Request, knobs: Knobs) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        self.request, self.w = request, request.workload
        self.win = window(self.w, knobs["rows"])
        self.columns = min(knobs["columns"], self.w.out_width)
        self.cells = padded_channels(self.w.in_channels)
        self.pairs = self.win.pairs()
        self.epilogue = Epilogue(request, BLOCK)
        self.code = Code()
        w = self.w
        self.strip_width = (w.out_width - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1
        self.strip = self.strip_width * self.win.groups * 64
        self.counts = {
            "n": w.batch,
            "h": tiles(w.out_height, self.win.rows),
            "g": blocks(w.out_channels),
        }

    def build(self) -> PrimFunc:
        w, code, threads = self.w, self.code, self.request.threads
        shape = (blocks(w.out_channels), w.kernel[1], len(self.pairs), BLOCK, 4)
        code.line(f'X = T.decl_buffer(({w.batch * w.in_height * w.in_width * self.cells},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({int(np.prod(shape))},), "int8", data=weight.data)')
        code.line(f'S = T.alloc_buffer(({threads * self.strip},), "uint8")')
        code.let("z", 'T.Cast("uint8", Q[0])')
        self.epilogue.header(code)
        split = split_axis(self.counts, threads)
        with ExitStack() as stack:
            base = "0"
            if threads > 1:
                stack.enter_context(code.block(f"for task in T.parallel({threads}):"))
                base = f"task * {self.strip}"
            code.let("base", base)
            self.epilogue.locals(code)
            for axis, count in self.counts.items():
                low, high = "0", str(count)
                if threads > 1 and axis == split:
                    low, high = f"task * {count} // {threads}", f"(task + 1) * {count} // {threads}"
                stack.enter_context(code.block(f"for {axis} in range({low}, {high}):"))
            code.let("oh", _start("h", self.win.rows, w.out_height))
            code.let("channel", f"g * {BLOCK}")
            self._interleave()
            with code.block(f"for t in range({tiles(w.out_width, self.columns)}):"):
                code.let("ow", _start("t", self.columns, w.out_width))
                self._tile()
        return code.to_prim_func(
            [*activation_params(self.request), ("weight", shape, "int8"), *range_params(self.request)]
        )

    def _interleave(self) -> None:
        """Fill the strip: columns [left border | input | right border], each `groups` vectors of 64 bytes."""
        w, code, groups = self.w, self.code, self.win.groups
        top, left = w.padding[0], w.padding[1]
        copied = min(w.in_width, self.strip_width - left)
        code.let("y0", f"oh * {w.stride[0]} - {top}")
        border = "T.Broadcast(z, 64)"
        for name, first, count in (("bl", 0, left), ("br", left + copied, self.strip_width - left - copied)):
            if count > 0:
                with code.block(f"for {name} in range({count * groups}):"):
                    code.line(f"S[{ramp(f'base + {first * groups * 64} + {name} * 64', 64)}] = {border}")
        rows = [min(j, self.win.reach - 1) for j in range(4 * groups)]
        inside = f"T.And(y0 >= 0, y0 + {self.win.reach} <= {w.in_height})"
        plane = f"n * {w.in_height * w.in_width * self.cells} + channel"
        line = w.in_width * self.cells
        with code.block(f"if {inside}:"):
            code.let("source", f"{plane} + y0 * {line}")
            with code.block(f"for c in range({copied}):"):
                self._columns([f"X[{ramp(f'source + {j * line} + c * {self.cells}', 16)}]" for j in rows], left)
        with code.block("else:"):
            for j in range(self.win.reach):
                code.let(f"ok{j}", f"T.And(y0 + {j} >= 0, y0 + {j} < {w.in_height})")
                code.let(f"s{j}", f"{plane} + T.max(0, T.min(y0 + {j}, {w.in_height - 1})) * {line}")
                code.let(f"k{j}", f"T.Broadcast(T.Select(ok{j}, T.uint8(255), T.uint8(0)), 16)")
                code.let(f"f{j}", f"T.Broadcast(T.Select(ok{j}, T.uint8(0), z), 16)")
            with code.block(f"for c in range({copied}):"):
                loads = [f"X[{ramp(f's{j} + c * {self.cells}', 16)}]" for j in rows]
                filled = [f"T.bitwise_or(T.bitwise_and({v}, k{j}), f{j})" for v, j in zip(loads, rows, strict=True)]
                self._columns(filled, left)

    def _columns(self, rows: list[str], left: int) -> None:
        """Store one input column's vectors [16 channels][4 rows]."""
        groups = self.win.groups
        order = [16 * j + c for c in range(16) for j in range(4)]
        for group in range(groups):
            target = f"base + {(left * groups + group) * 64} + c * {groups * 64}"
            vectors = ", ".join(rows[4 * group : 4 * group + 4])
            self.code.line(f"S[{ramp(target, 64)}] = T.Shuffle([{vectors}], {order})")

    def _tile(self) -> None:
        w, code, groups = self.w, self.code, self.win.groups
        lanes = ramp(0, BLOCK)
        for r in range(self.win.rows):
            for c in range(self.columns):
                code.line(f'a{r}_{c} = T.alloc_buffer(({BLOCK},), "int32")')
        code.let("b", f"bias[{ramp('channel', BLOCK)}]")
        for r in range(self.win.rows):
            for c in range(self.columns):
                code.line(f"a{r}_{c}[{lanes}] = b")
        size = 64 * len(self.pairs)
        for k in range(w.kernel[1]):
            for p in range(len(self.pairs)):
                code.let(f"w{k}_{p}", f"W[{ramp(f'g * {w.kernel[1] * size} + {k * size + p * 64}', 64)}]")
        code.let("at", f"base + ow * {w.stride[1] * groups * 64}")
        for column in range((self.columns - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1):
            users = [
                (c, k)
                for c in range(self.columns)
                for k in range(w.kernel[1])
                if c * w.stride[1] + k * w.dilation[1] == column
            ]
            if not users:
                continue
            for group in range(groups):
                v = code.let(f"v{column}_{group}", f"S[{ramp(f'at + {(column * groups + group) * 64}', 64)}]")
                for c, k in users:
                    for p, (row, g) in enumerate(self.pairs):
                        if g == group:
                            acc = f"a{row}_{c}[{lanes}]"
                            code.line(f"{acc} = {intrin('int32x16', _DOT, acc, v, f'w{k}_{p}')}")
        code.let("m", f"multiplier[{ramp('channel', BLOCK)}]")
        cells = []
        for r in range(self.win.rows):
            for c in range(self.columns):
                position = f"(n * {w.out_height} + oh + {r}) * {w.out_width} + ow + {c}"
                cells.append(Cell(f"a{r}_{c}[{lanes}]", "m", position, "channel"))
        self.epilogue.finish(code, cells)


def _start(index: str, tile: int, extent: int) -> str:
    return f"{index} * {tile}" if extent % tile == 0 else f"T.min({index} * {tile}, {extent - tile})"
