"""Depthwise convolution: one vector of channels at a time, a run of neighbouring columns in registers.

Nothing is copied. A chunk of channels is done for all rows before the next one: so few channels that the input rows
under a kernel stay in the first-level cache until the last output row has read them. Kernel rows outside the input are
left out by the bounds of the row loop; columns outside it are known when the code is generated, because the first and
last tiles of a row have code of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.float_conv.activations import ActivationCode
from tvm_mpq.kernels.float_conv.emit import Emitter, vec
from tvm_mpq.kernels.float_conv.tiling import Knobs, fitting_lanes, native_lanes
from tvm_mpq.kernels.tir import Script
from tvm_mpq.schema import Conv2dWorkload

FloatArray = npt.NDArray[np.float32]
_TASKS_PER_THREAD = 2
_MOST_COLUMNS = 8
"""Longer tiles read more streams at once than hardware prefetchers follow, and are slower on maps beyond the caches."""
_CHUNK_BYTES = 24 * 1024
"""Input under one kernel row by row: what should stay in a first-level cache."""
_CHUNKED_INPUT_BYTES = 2 * 1024 * 1024
"""A larger input comes from afar, and whole rows come faster than parts of them."""


def pack_depthwise(w: Conv2dWorkload, weight: FloatArray, bias: FloatArray) -> list[FloatArray]:
    """weight float32[C, KH, KW, 1] -> float32[KH * KW * C] (channels innermost); bias float32[C] as it is."""
    taps = w.kernel[0] * w.kernel[1]
    packed = weight.reshape(w.out_channels, taps).T.ravel()
    return [np.ascontiguousarray(packed, np.float32), np.ascontiguousarray(bias, np.float32)]


def depthwise_tiles(w: Conv2dWorkload, features: frozenset[str]) -> list[Knobs]:
    """Columns of a tile, lanes, and chunks of channels; the first is the default."""
    widest = fitting_lanes(w.out_channels, native_lanes(features))
    limit = min(w.out_width, _MOST_COLUMNS)
    tiles: list[Knobs] = []
    for lanes in dict.fromkeys((widest, max(widest // 2, 1))):
        chunks = _chunks(w, lanes)
        by_waste = sorted(range(1, limit + 1), key=lambda c: (-(-w.out_width // c)) * (c + 0.5 * w.kernel[1] + 1))
        orders = chunks if lanes == widest else chunks[:1]
        tiles += [{"lanes": lanes, "cols": cols, "chunks": n} for n in orders for cols in by_waste[:3]]
    return tiles


def _chunks(w: Conv2dWorkload, lanes: int) -> list[int]:
    """How many parts the channels are worth dividing into, the default first."""
    vectors = -(-w.out_channels // lanes)
    fitting = max(1, _CHUNK_BYTES // (w.kernel[0] * w.in_width * lanes * 4))
    parts = -(-vectors // fitting)
    near = w.in_height * w.in_width * w.in_channels * 4 <= _CHUNKED_INPUT_BYTES
    return list(dict.fromkeys((parts, 1) if near else (1, parts)))


def build_depthwise(w: Conv2dWorkload, knobs: Knobs, threads: int) -> Script:
    """Kernel of `(x, [r], weight, bias, out)`; weight and bias as `pack_depthwise` lays them out."""
    return _Depthwise(w, knobs).build(threads)


class _Depthwise:
    def __init__(self, w: Conv2dWorkload, knobs: Knobs) -> None:
        self.w, self.lanes, self.cols = w, knobs["lanes"], knobs["cols"]
        self.channels, self.chunks = w.out_channels, knobs["chunks"]
        shape_in = (w.batch, w.in_height, w.in_width, w.in_channels)
        shape_out = (w.batch, w.out_height, w.out_width, w.out_channels)
        buffers: list[tuple[str, tuple[int, ...]]] = [("x", shape_in), *([("r", shape_out)] if w.residual else [])]
        buffers += [("w", (w.kernel[0] * w.kernel[1] * self.channels,)), ("b", (self.channels,)), ("y", shape_out)]
        self.emitter = Emitter("f32_dwconv2d", buffers)
        self.activation = ActivationCode(self.emitter, w.activation, self.lanes)

    def build(self, threads: int) -> Script:
        w, e = self.w, self.emitter
        rows = w.batch * w.out_height
        tasks = min(rows, threads * _TASKS_PER_THREAD) if threads > 1 else 1
        with e.block(f"for task in {'T.parallel' if threads > 1 else 'range'}({tasks}):"):
            self.activation.declare()
            for col in range(self.cols):
                e.vector_buffer(f"a{col}", self.lanes)
            some_rows = f"for row in range(task * {rows} // {tasks}, (task + 1) * {rows} // {tasks}):"
            with e.block(f"for chunk in range({self.chunks}):"), e.block(some_rows):
                e.line(f"image = row // {w.out_height}")
                e.line(f"ih0 = row % {w.out_height} * {w.stride[0]} - {w.padding[0]}")
                # first kernel row inside the input, and the one past the last
                step = w.dilation[0]
                e.line(f"kh0 = T.max(0, (0 - ih0 + {step - 1}) // {step})")
                e.line(f"kh1 = T.min({w.kernel[0]}, ({w.in_height - 1 + step} - ih0) // {step})")
                self._row()
        return e.build()

    def _row(self) -> None:
        """Tiles of one output row: those that touch a border are written out, the others share a loop."""
        starts = [min(c, self.w.out_width - self.cols) for c in range(0, self.w.out_width, self.cols)]
        inside = [s for s in starts if self._is_inside(s)]
        for start in [s for s in starts if not inside or s < inside[0]]:
            self._tile(str(start), start)
        if inside:
            with self.emitter.block(f"for tile in range({len(inside)}):"):
                self.emitter.line(f"ow = T.min({inside[0]} + tile * {self.cols}, {inside[-1]})")
                self._tile("ow", inside[0])
        for start in [s for s in starts if inside and s > inside[-1]]:
            self._tile(str(start), start)

    def _column(self, ow: int, kw: int) -> int:
        return ow * self.w.stride[1] - self.w.padding[1] + kw * self.w.dilation[1]

    def _is_inside(self, start: int) -> bool:
        last = self._column(start + self.cols - 1, self.w.kernel[1] - 1)
        return self._column(start, 0) >= 0 and last < self.w.in_width

    def _tile(self, ow: str, example: int) -> None:
        """All channels of the columns from `ow` on; `example` tells which taps lie inside the input."""
        w, e, lanes = self.w, self.emitter, self.lanes
        vectors = -(-self.channels // lanes)
        offset = f"v * {lanes}" if self.channels % lanes == 0 else f"T.min(v * {lanes}, {self.channels - lanes})"
        bounds = f"chunk * {vectors} // {self.chunks}, (chunk + 1) * {vectors} // {self.chunks}"
        with e.block(f"for v in range({bounds}):"):
            e.line(f"c = {offset}")
            for col in range(self.cols):
                e.line(f"{vec(f'a{col}', '0', lanes)} = {vec('b', 'c', lanes)}")
            with e.block("for kh in range(kh0, kh1):"):
                height = f"image * {w.in_height} + ih0 + kh * {w.dilation[0]}"
                first = f"{ow} * {w.stride[1]} - {w.padding[1]}"
                e.line(f"x0 = (({height}) * {w.in_width} + {first}) * {self.channels} + c")
                for kw in range(w.kernel[1]):
                    weight = vec("w", f"(kh * {w.kernel[1]} + {kw}) * {self.channels} + c", lanes)
                    for col in range(self.cols):
                        if 0 <= self._column(example + col, kw) < w.in_width:
                            shift = (col * w.stride[1] + kw * w.dilation[1]) * self.channels
                            acc = vec(f"a{col}", "0", lanes)
                            e.line(f"{acc} = {acc} + {vec('x', f'x0 + {shift}', lanes)} * {weight}")
            e.line(f"y0 = (row * {w.out_width} + {ow}) * {self.channels} + c")
            for col in range(self.cols):
                place, acc = f"y0 + {col * self.channels}", vec(f"a{col}", "0", lanes)
                if w.residual:
                    e.line(f"{acc} = {acc} + {vec('r', place, lanes)}")
                self.activation.apply(f"a{col}")
                e.line(f"{vec('y', place, lanes)} = {acc}")
