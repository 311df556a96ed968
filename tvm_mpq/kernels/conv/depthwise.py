"""Depthwise convolution by four-way byte products over vertically interleaved rows.

For a tile of output rows, every input column of 16 channels becomes vectors of [16 channels][4 rows] in a strip that
stays in the first-level cache; border columns and rows hold the zero point there. One product then adds four rows of a
column, and the same vector serves several output rows through weights shifted by a row: the weights of (kernel column,
output row, group of 4 rows) are 64 bytes, zero where the row does not belong to the window.

Two blocks of 16 channels are interleaved together, by byte and word unpacks within each 128 bit lane. That leaves their
channels in the order `PAIR_ORDER` over two accumulators; weights, bias and multipliers are stored so, and the packs of
the epilogue bring the outputs back. An odd last block goes alone, in natural order.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.conv.packed import Quad
from tvm_mpq.kernels.emit.tiles import even_tile, split_axis, tiles
from tvm_mpq.kernels.frames.geometry import BLOCK, blocks, useful_threads
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Script, intrin, ramp
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, padded_channels

_DOT = "llvm.x86.avx512.vpdpbusd.512"
_PAIR_QUADS = ((0, 16, 4, 20), (8, 24, 12, 28))
_PRODUCTS = 168  # of a block in one tile's straight code: more take LLVM too long
PAIR_ORDER = [quad + lane for quads in _PAIR_QUADS for quad in quads for lane in range(4)]
"""Channel of each of the 32 lanes that two interleaved blocks make."""


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


def _conv(request: Request) -> Conv2dWorkload:
    assert isinstance(request.workload, Conv2dWorkload)
    return request.workload


def _paired(request: Request) -> bool:
    """Whether blocks go in pairs: the packs that bring their channels back make bytes."""
    return request.out_bits != FLOAT_BITS


def window(w: Conv2dWorkload, rows: int) -> Window:
    return Window(min(rows, w.out_height), w.kernel[0], w.stride[0], w.dilation[0])


def lane_order(request: Request) -> npt.NDArray[np.int64]:
    """int64[blocks * 16]: the channel of each accumulator lane."""
    out_blocks = blocks(_conv(request).out_channels)
    order = np.arange(out_blocks * BLOCK)
    pairs = out_blocks // 2 if _paired(request) else 0
    order[: pairs * 32] = (order[: pairs * 32].reshape(pairs, 32)[:, PAIR_ORDER]).reshape(-1)
    return order


def pack_depthwise(request: Request, knobs: Knobs, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """int8[C, KH, KW, 1] -> int8[C/16, KW, pairs, 16, 4] for the tile height of `knobs`, channels in `lane_order`."""
    w = _conv(request)
    win = window(w, knobs["rows"])
    pairs = win.pairs()
    flat = np.zeros((blocks(w.out_channels) * BLOCK, w.kernel[1], len(pairs), 4), np.int8)
    for p, (row, group) in enumerate(pairs):
        for k, y in win.taps(row):
            if y // 4 == group:
                flat[: w.out_channels, :, p, y % 4] = weight[:, k, :, 0]
    ordered = flat[lane_order(request)]
    return np.ascontiguousarray(ordered.reshape(-1, BLOCK, *flat.shape[1:]).transpose(0, 2, 3, 1, 4))


def depthwise_knobs(request: Request) -> list[Knobs]:
    """Two rows a tile share what they interleave, unless 3 rows at stride 2 overlap too little or few rows are left."""
    w = _conv(request)
    single = w.stride[0] * 2 >= w.kernel[0] and w.kernel[0] > 1 if w.stride[0] > 1 else w.out_height <= 7
    out: list[Knobs] = []
    for rows in (1, 2, 4) if single else (2, 1, 4):
        win = window(w, rows)
        for limit in (8, 4, 14):
            knobs = {"rows": win.rows, "columns": even_tile(w.out_width, limit)}
            short = knobs["columns"] * w.kernel[1] * len(win.pairs()) <= _PRODUCTS
            if knobs not in out and (short or not out):
                out.append(knobs)
    return out


def build_depthwise(request: Request, knobs: Knobs) -> Script:
    return _Depthwise(request, knobs).build()


class _Depthwise:
    def __init__(self, request: Request, knobs: Knobs) -> None:
        self.request, self.w = request, _conv(request)
        self.threads = useful_threads(self.w, request.threads)
        self.win = window(self.w, knobs["rows"])
        self.columns = min(knobs["columns"], self.w.out_width)
        self.cells = padded_channels(self.w.in_channels)
        self.pairs = self.win.pairs()
        self.epilogue = Epilogue(request, BLOCK)
        self.code = Code()
        w = self.w
        all_blocks = blocks(w.out_channels)
        self.strip_width = (w.out_width - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1
        self.strip = self.strip_width * self.win.groups * 64 * min(2, all_blocks)
        self.counts = {"n": w.batch, "h": tiles(w.out_height, self.win.rows)}
        pairs = all_blocks // 2 if _paired(request) else 0
        self.parts = [(0, pairs, 2), (2 * pairs, all_blocks - 2 * pairs, 1)]
        if 0 in (pairs, all_blocks - 2 * pairs):
            self.counts["g"] = pairs or all_blocks  # only equal parts of the channels can be divided over threads

    def build(self) -> Script:
        w, code = self.w, self.code
        shape = (blocks(w.out_channels), w.kernel[1], len(self.pairs), BLOCK, 4)
        code.line(f'X = T.decl_buffer(({w.batch * w.in_height * w.in_width * self.cells},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({int(np.prod(shape))},), "int8", data=weight.data)')
        code.line(f'S = T.alloc_buffer(({self.threads * self.strip},), "uint8")')
        code.let("z", 'T.Cast("uint8", Q[0])')
        self.epilogue.header(code)
        self.split = split_axis(self.counts, self.threads)
        with ExitStack() as stack:
            base = "0"
            if self.threads > 1:
                stack.enter_context(code.block(f"for task in T.parallel({self.threads}):"))
                base = f"task * {self.strip}"
            code.let("base", base)
            self.epilogue.locals(code)
            stack.enter_context(code.block(f"for n in range({self._range('n', w.batch)}):"))
            stack.enter_context(code.block(f"for h in range({self._range('h', self.counts['h'])}):"))
            code.let("oh", _start("h", self.win.rows, w.out_height))
            for first, count, span in self.parts:
                if count:
                    self.span = span
                    self._channels(first, count)
        return code.script([*activation_params(self.request), ("weight", shape, "int8"), *range_params(self.request)])

    def _range(self, axis: str, count: int) -> str:
        if self.threads == 1 or axis != self.split:
            return f"0, {count}"
        return f"task * {count} // {self.threads}, (task + 1) * {count} // {self.threads}"

    def _channels(self, first: int, count: int) -> None:
        """A row of tiles for `count` groups of `span` blocks from block `first`."""
        code = self.code
        with code.block(f"for g in range({self._range('g', count)}):"):
            code.let("block", f"{first} + g * {self.span}")
            code.let("channel", f"block * {BLOCK}")
            self._interleave()
            with code.block(f"for t in range({tiles(self.w.out_width, self.columns)}):"):
                code.let("ow", _start("t", self.columns, self.w.out_width))
                self._tile()

    def _interleave(self) -> None:
        """Fill the strip: columns [left border | input | right border], each groups * span vectors of 64 bytes."""
        w, code, groups, size = self.w, self.code, self.win.groups, 16 * self.span
        top, left = w.padding[0], w.padding[1]
        copied = min(w.in_width, self.strip_width - left)
        column = groups * 64 * self.span
        code.let("y0", f"oh * {w.stride[0]} - {top}")
        border = "T.Broadcast(z, 64)"
        for name, first, count in (("bl", 0, left), ("br", left + copied, self.strip_width - left - copied)):
            if count > 0:
                with code.block(f"for {name} in range({count * column // 64}):"):
                    code.line(f"S[{ramp(f'base + {first * column} + {name} * 64', 64)}] = {border}")
        rows = [min(j, self.win.reach - 1) for j in range(4 * groups)]
        inside = f"T.And(y0 >= 0, y0 + {self.win.reach} <= {w.in_height})"
        plane = f"n * {w.in_height * w.in_width * self.cells} + channel"
        line = w.in_width * self.cells
        with code.block(f"if {inside}:"):
            code.let("source", f"{plane} + y0 * {line}")
            with code.block(f"for c in range({copied}):"):
                self._columns([f"X[{ramp(f'source + {j * line} + c * {self.cells}', size)}]" for j in rows], left)
        with code.block("else:"):
            for j in range(self.win.reach):
                code.let(f"ok{j}", f"T.And(y0 + {j} >= 0, y0 + {j} < {w.in_height})")
                code.let(f"s{j}", f"{plane} + T.max(0, T.min(y0 + {j}, {w.in_height - 1})) * {line}")
                code.let(f"k{j}", f"T.Broadcast(T.Select(ok{j}, T.uint8(255), T.uint8(0)), {size})")
                code.let(f"f{j}", f"T.Broadcast(T.Select(ok{j}, T.uint8(0), z), {size})")
            with code.block(f"for c in range({copied}):"):
                loads = [f"X[{ramp(f's{j} + c * {self.cells}', size)}]" for j in rows]
                filled = [f"T.bitwise_or(T.bitwise_and({v}, k{j}), f{j})" for v, j in zip(loads, rows, strict=True)]
                self._columns(filled, left)

    def _columns(self, rows: list[str], left: int) -> None:
        """Store one input column's vectors [channels][4 rows]."""
        code, groups = self.code, self.win.groups
        size = 64 * self.span
        for group in range(groups):
            at = f"base + {(left * groups + group) * size} + c * {groups * size}"
            four = rows[4 * group : 4 * group + 4]
            if self.span == 1:
                order = [16 * j + c for c in range(16) for j in range(4)]
                code.line(f"S[{ramp(at, 64)}] = T.Shuffle([{', '.join(four)}], {order})")
                continue
            r = [code.let(f"r{group}_{j}", row) for j, row in enumerate(four)]
            low, high = [], []
            for j in (0, 2):
                low.append(code.let(f"l{group}_{j}", _unpack(r[j], r[j + 1], 1, 0)))
                high.append(code.let(f"h{group}_{j}", _unpack(r[j], r[j + 1], 1, 1)))
            for k, pair in enumerate((low, low, high, high)):
                code.line(f"S[{ramp(f'{at} + {32 * k}', 32)}] = {_unpack(pair[0], pair[1], 2, k % 2)}")

    def _tile(self) -> None:
        w, code, groups, span = self.w, self.code, self.win.groups, self.span
        lanes = ramp(0, BLOCK)
        size = 64 * len(self.pairs)
        accs = {
            (r, c, s): f"a{r}_{c}_{s}[{lanes}]"
            for r in range(self.win.rows)
            for c in range(self.columns)
            for s in range(span)
        }
        for r, c, s in accs:
            code.line(f'a{r}_{c}_{s} = T.alloc_buffer(({BLOCK},), "int32")')
        for s in range(span):
            code.let(f"b{s}", f"bias[{ramp(f'channel + {16 * s}', BLOCK)}]")
            code.let(f"m{s}", f"multiplier[{ramp(f'channel + {16 * s}', BLOCK)}]")
        for (_, _, s), acc in accs.items():
            code.line(f"{acc} = b{s}")
        for k in range(w.kernel[1]):
            for p in range(len(self.pairs)):
                for s in range(span):
                    at = f"(block + {s}) * {w.kernel[1] * size} + {k * size + p * 64}"
                    code.let(f"w{k}_{p}_{s}", f"W[{ramp(at, 64)}]")
        code.let("at", f"base + ow * {w.stride[1] * groups * span * 64}")
        cells: list[Cell] = []
        for column in range((self.columns - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1):
            users = [
                (c, k)
                for c in range(self.columns)
                for k in range(w.kernel[1])
                if c * w.stride[1] + k * w.dilation[1] == column
            ]
            for group in range(groups if users else 0):
                for s in range(span):
                    offset = ((column * groups + group) * span + s) * 64
                    v = code.let(f"v{column}_{group}_{s}", f"S[{ramp(f'at + {offset}', 64)}]")
                    for c, k in users:
                        for p, (row, g) in enumerate(self.pairs):
                            if g == group:
                                acc = accs[row, c, s]
                                code.line(f"{acc} = {intrin('int32x16', _DOT, acc, v, f'w{k}_{p}_{s}')}")
            for c, k in users:
                if k == w.kernel[1] - 1:  # complete: end it while the next columns' products run
                    cells += [self._cell(r, c, s, accs[r, c, s]) for r in range(self.win.rows) for s in range(span)]
            while len(cells) >= 4:
                self.epilogue.finish(code, cells[:4], f"c{column}_{len(cells)}")
                del cells[:4]
        self.epilogue.finish(code, cells, "last")

    def _cell(self, r: int, c: int, s: int, acc: str) -> Cell:
        w = self.w
        position = f"(n * {w.out_height} + oh + {r}) * {w.out_width} + ow + {c}"
        quads = tuple(Quad(position, "channel", o) for o in _PAIR_QUADS[s]) if self.span == 2 else ()
        return Cell(acc, f"m{s}", position, "channel", quads=quads)


def _unpack(first: str, second: str, size: int, half: int) -> str:
    """Elements of `size` bytes of two uint8x32 alternating, from the low or high half of each 128 bit lane."""
    order = []
    for lane in range(0, 32, 16):
        for at in range(lane + 8 * half, lane + 8 * half + 8, size):
            order += [*range(at, at + size), *range(32 + at, 32 + at + size)]
    return f"T.Shuffle([{first}, {second}], {order})"


def _start(index: str, tile: int, extent: int) -> str:
    return f"{index} * {tile}" if extent % tile == 0 else f"T.min({index} * {tile}, {extent - tile})"
