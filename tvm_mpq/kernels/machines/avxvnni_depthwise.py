"""AVX-VNNI: depthwise convolution over vertically interleaved rows, as with AVX-512, by vectors of 8 channels.

Sixteen registers hold the weights of one such vector and the sums of a few columns, so a tile does its vectors one
after the other. Channels stay in their order: the halves of what the unpacks make are stored where they belong.
"""

from __future__ import annotations

from tvm_mpq.kernels.emit import Function, Register, Value, let, loop
from tvm_mpq.kernels.frames.requantize import Cell
from tvm_mpq.kernels.machines.avxvnni import VECTOR, dot
from tvm_mpq.kernels.machines.vnni512_depthwise import DepthwiseFrame, DepthwiseWriter
from tvm_mpq.kernels.packing.depthwise import PAIR_ORDER
from tvm_mpq.kernels.shapes.geometry import BLOCK

_HALF = 16  # bytes: four channels of four rows


class HalfDepthwiseFrame(DepthwiseFrame):
    """Accumulators of 8 channels."""

    lanes = 8

    def writer(self, f: Function) -> DepthwiseWriter:
        return _Writer(self, f)


class _Writer(DepthwiseWriter):
    def store_quads(self, at: Value, k: int, quads: Value) -> None:
        for half in range(2):
            channel = PAIR_ORDER[8 * k + 4 * half]
            self.strip.store(at + 4 * channel, quads.lanes_of(range(_HALF * half, _HALF * half + _HALF)))

    def tile(self) -> None:
        groups, column_bytes = self.window.groups, self.window.groups * self.span * 4 * BLOCK
        start = let(self.base + self.ow * (self.w.stride[1] * column_bytes), "start")
        with loop(self.span * BLOCK // self.frame.lanes) as vector:
            self._vector(vector, let(start + vector * VECTOR, "strip"), column_bytes // groups)

    def _vector(self, vector: Value, strip: Value, group_bytes: int) -> None:
        """All positions of 8 channels; `group_bytes` of a column hold a group of rows."""
        frame, lanes, pairs = self.frame, self.frame.lanes, self.frame.pairs
        channel, columns = let(self.channel + vector * lanes, "channel"), self.w.kernel[1]
        bias = let(self.bias.load(channel, lanes), "bias")
        multiplier = let(self.multiplier.load(channel, lanes), "multiplier")
        taps = columns * len(pairs)
        first = let((self.block + (vector >> 1)) * (taps * 2 * VECTOR) + (vector & 1) * VECTOR, "first")
        weights = {
            (k, p): let(self.weights.load(first + (k * len(pairs) + p) * 2 * VECTOR, VECTOR), "w")
            for k in range(columns)
            for p in range(len(pairs))
        }
        accs = {(r, c): Register(lanes, "int32") for r in range(self.window.rows) for c in range(frame.columns)}
        for acc in accs.values():
            acc.value = bias
        cells: list[Cell] = []
        for column in self.input_columns:
            users = self.users(column)
            for group in range(self.window.groups if users else 0):
                at = (column * self.window.groups + group) * group_bytes
                v = let(self.strip.load(strip + at, VECTOR), "v")
                for c, k in users:
                    for p, (row, g) in enumerate(pairs):
                        if g == group:
                            accs[row, c].value = dot(accs[row, c].value, v, weights[k, p])
            for c, k in users:
                if k == columns - 1:
                    for r in range(self.window.rows):
                        cells.append(Cell(accs[r, c].value, multiplier, self.position(r, c), channel))
            while len(cells) >= 4:
                self.requantizer.finish(cells[:4])
                del cells[:4]
        self.requantizer.finish(cells)
