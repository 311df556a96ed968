"""A tile of a convolution whose machine goes by steps: accumulators, the loops around `Dot.step`, what ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_mpq.kernels.emit import (
    Index,
    Pointer,
    Value,
    accumulators,
    constant,
    let,
    shuffle,
    tiles,
)
from tvm_mpq.kernels.emit.quads import Quad
from tvm_mpq.kernels.frames.convolution import LaneVector
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.frames.reduction import Reduction
from tvm_mpq.kernels.frames.requantize import Cell
from tvm_mpq.kernels.shapes.geometry import (
    BLOCK,
    ChannelTiles,
)

if TYPE_CHECKING:
    from tvm_mpq.kernels.frames.convolution_writer import ConvolutionWriter

PREFETCHED_BYTES = 131_072
"""Weights of a convolution from which they are prefetched; smaller ones gained nothing."""


class StepTile:
    """One tile of a machine that goes by steps: its accumulators, and the loops around `Dot.step`."""

    def __init__(self, writer: ConvolutionWriter, dot: Dot, part: ChannelTiles) -> None:
        self.writer, self.frame, self.g, self.dot, self.part = writer, writer.frame, writer.g, dot, part
        self.vectors = self.frame.vectors(part)
        self.accs = accumulators(
            len(self.frame.positions(writer.columns)), [vector.lanes for vector in self.vectors], "int32"
        )
        self.channel = let(writer.block * BLOCK, "channel")

    def cells(self) -> list[Cell]:
        """All sums, as the requantizer takes them; halves are joined in pairs of positions."""
        dot, accs = self.dot, self.accs
        for v, vector in enumerate(self.vectors):
            start = constant(0, "int32", vector.lanes) if dot.shift else self._bias(vector)
            for row in accs:
                row[v].value = start
        self._reduce()
        multipliers, biases = [], []
        for vector in self.vectors:
            m = self.writer.multiplier.load(self.channel + vector.offset, vector.lanes)
            multipliers.append(let(shuffle([m, m], range(dot.lanes)) if vector.lanes < dot.lanes else m, "multiplier"))
            if dot.shift:
                biases.append(self._bias(vector))
        places = self.writer.places()
        cells, waiting = [], 0
        for p, position in enumerate(places):
            for v, vector in enumerate(self.vectors):
                if vector.lanes < dot.lanes:
                    if p % 2 == 0 and p + 1 < len(places):
                        waiting = p
                        continue
                    first = waiting if p % 2 else p
                    acc = shuffle([accs[first][v].value, accs[p][v].value], range(dot.lanes))
                    quads = tuple(Quad(places[i], self.channel, vector.offset + o) for i in (first, p) for o in (0, 4))
                    cells.append(Cell(acc, multipliers[v], position, self.channel, offset=vector.offset, quads=quads))
                    continue
                if self.frame.all_blocks == 1 and vector.offset >= self.writer.requantizer.stored:
                    continue  # half a block past the last channel
                acc = accs[p][v].value
                if dot.shift:
                    acc = (acc >> dot.shift) + biases[v]
                reaches_end = vector.offset // BLOCK == self.part.blocks - 1
                cells.append(Cell(acc, multipliers[v], position, self.channel, reaches_end, vector.offset))
        return cells

    def _bias(self, vector: LaneVector) -> Value:
        writer = self.writer  # what zero points add depends on a phase's taps
        first = writer.phase.number * (self.frame.all_blocks * BLOCK)
        return let(writer.bias.load(first + (self.channel + vector.offset), vector.lanes), "bias")

    def _reduce(self) -> None:
        writer, frame, g, dot = self.writer, self.frame, self.g, self.dot
        width, merged = g.row_width, frame.merged
        length = (g.kernel[1] if merged else 1) * frame.window.cells // dot.channels  # steps of the innermost loop
        x = let(writer.first_cell(), "x_tile")
        if dot.unpacks:
            w = writer.unpacked if frame.by_channels else writer.unpacked + writer.block * frame.block_bytes
        else:
            w = writer.stored_block() * frame.block_bytes
        reduction = Reduction.of(g, merged, length, width * g.in_cells, dot.channels, dot.stride_bytes)
        with reduction.loops(x, w) as place:
            inputs = [Pointer(writer.x, place.x + offset) for offset in frame.offsets(writer.columns)]
            starts = [place.weights + self._weights_of(vector) for vector in self.vectors]
            large = frame.all_blocks * frame.block_bytes >= PREFETCHED_BYTES
            if dot.prefetches and large and merged and frame.by_channels:
                self._prefetch(place.step)
            weights = [Pointer(writer.weights, start) for start in starts]
            dot.step(inputs, weights, self.accs, self.vectors[-1].lanes < dot.lanes)

    def _weights_of(self, vector: LaneVector) -> int:
        """How far behind the tile's first weights those of a vector begin."""
        block, part = divmod(vector.offset, BLOCK)
        return block * self.frame.block_bytes + part // self.dot.lanes * self.dot.vector_bytes(self.frame.steps)

    def _prefetch(self, step: Index) -> None:
        """Ask for the weights of the next tile of channels, a little in every step of this one's tiles of positions.

        In a network weights come from the third-level cache or memory, which the processor's own prefetching hides
        badly where a block of weights serves few positions. Past the last tile the address is out of bounds, which a
        prefetch may be.
        """
        writer, frame, part, columns = self.writer, self.frame, self.part, self.frame.counts["w"]
        stride = tiles(part.blocks * frame.block_bytes, frame.steps * frame.counts["h"] * columns)
        done = ((writer.h * columns + writer.w) * frame.steps + step) * stride
        writer.weights.prefetch((writer.stored_block() + part.blocks) * frame.block_bytes + done)
