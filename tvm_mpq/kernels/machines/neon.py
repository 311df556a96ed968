"""NEON without dot products: smull and smlal of eight bytes, and the additions that widen their 16 bit sums.

Activations are unsigned bytes, and NEON multiplies bytes of equal signedness only: registers hold x - c, where c is
half the range of x. |x - c| is as small as it can be, so that 16 bits hold the most products, and the bias holds the
difference: sum (x - c) * w = sum x * w - c * sum w. The subtraction is one instruction for 16 channels of a position.
Border cells hold the zero point and are treated as any other; cells behind the last channel meet weights of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import (
    Pointer,
    Register,
    Value,
    accumulators,
    clear,
    constant,
    intrinsic,
    let,
    loop,
    shuffle,
)
from tvm_mpq.kernels.frames.machine import Tile, TileMachine
from tvm_mpq.kernels.machines.nibbles import Counters, NibbleMachine
from tvm_mpq.kernels.packing.dense import diagonal_weight
from tvm_mpq.kernels.shapes.geometry import BLOCK, ChannelWindow, Geometry, blocks
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, Precision, padded_channels

_HALF = 8  # output channels of a pairwise tile
_STEP = 16  # bytes of a vector register
_UNROLLED_TAPS = 25  # depthwise kernels of more taps loop over their rows


def centre(activation_bits: int) -> int:
    """c: x - c fits a signed byte, and |x - c| <= c.

    >>> centre(8), centre(4)
    (128, 8)
    """
    return 1 << (activation_bits - 1)


def exact_depth(weight_bits: int, activation_bits: int) -> int:
    """How many products of an activation less its centre with a weight 16 bits hold.

    >>> exact_depth(8, 8), exact_depth(4, 8)
    (2, 36)
    """
    low, high = weight_range(weight_bits)
    return int(32767 // (centre(activation_bits) * max(-low, high)))


def deferred_depth(precision: Precision) -> int:
    """How many products the deferred kernel adds in 16 bits; more than eight gain nothing."""
    return min(8, exact_depth(precision.weight_bits, precision.activation_bits))


def bind_centre(taken: int, lanes: int = _STEP) -> Value:
    """What `less` takes off activations; once a call."""
    return let(constant(taken, "uint8", lanes), "centre")


def less(x: Value, c: Value) -> Value:
    """x - c as signed bytes."""
    return (x - c).reinterpret("int8", x.lanes)


def products(xs: Sequence[Value], ws: Sequence[Value]) -> Value:
    """int16x8: the sum of x * w over pairs of int8x8."""
    first, *others = (intrinsic("llvm.aarch64.neon.smull", "int16", 8, x, w) for x, w in zip(xs, ws, strict=True))
    return sum(others, first)


def eighths(vectors: Sequence[Value]) -> list[Value]:
    """Vectors of 8 or 16 bytes as vectors of eight."""
    return [v if v.lanes == 8 else v.lanes_of(range(i, i + 8)) for v in vectors for i in range(0, v.lanes, 8)]


@dataclass(frozen=True)
class TapRow:
    """Neighbouring input bytes that one run of vectors covers."""

    length: int  # bytes
    count: int  # runs of one output position

    @classmethod
    def of(cls, w: Conv2dWorkload) -> TapRow:
        """A kernel row where its positions lie side by side, else one position's channels."""
        cells, (rows, columns) = ChannelWindow.of(w, _STEP).cells, Geometry.of(w, FLOAT_BITS).kernel
        if w.dilation[1] == 1 and cells == padded_channels(w.in_channels):
            return cls(columns * cells, rows)
        return cls(cells, rows * columns)

    @property
    def step(self) -> int:
        """Bytes of a vector."""
        return _STEP if self.length >= _STEP else 8

    @property
    def starts(self) -> list[int]:
        """Where the vectors begin."""
        return [min(i, self.length - self.step) for i in range(0, self.length, self.step)]


class Pairwise(TileMachine):
    """smull, smlal and sadalp: sums over 16 input channels at a time.

    A tile is up to 3 positions x 8 output channels. Every output channel of a position has an int32x4 of its own: bytes
    of 16 input channels meet the weights of the same channels in one smull and one smlal, whose eight 16 bit sums
    sadalp adds to it in pairs. Nothing is broadcast. Where operands are small, more products are added in 16 bits
    before one sadalp. At the end of the tile addp joins the four partial sums of each channel.

    A row of taps (or one tap, when taps lie apart) is covered by vectors of 16 bytes, or 8; where they do not divide
    it, the last one is moved back and its weights are zero where the one before has been.

    Weights int8[CO/16, 2, runs, vectors of a run, 8, bytes of a vector].
    """

    lanes = _HALF

    def __init__(self, workload: Conv2dWorkload, activation_bits: int, depth: int) -> None:
        """depth: products that are added in 16 bits."""
        self.row = TapRow.of(workload)
        self.channels = min(_STEP, padded_channels(workload.in_channels))
        self.taken = centre(activation_bits)
        self.vectors = depth * 8 // self.row.step  # of a run, added before one sadalp

    def block_bytes(self, steps: int) -> int:
        """A run may hold more bytes than its taps, so the frame's count of steps does not tell."""
        return BLOCK * self.row.count * len(self.row.starts) * self.row.step

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2, self.row.count, len(self.row.starts), _HALF, self.row.step)

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        row, out = self.row, len(weight)
        flat = weight.reshape(out, row.count, row.length)
        full = np.zeros((blocks(out) * BLOCK, row.count, len(row.starts), row.step), np.int8)
        done = 0
        for i, start in enumerate(row.starts):
            full[:out, :, i, done - start :] = flat[:, :, done : start + row.step]
            done = start + row.step
        split = full.reshape(-1, 2, _HALF, *full.shape[1:])
        return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2, 5))

    def prepare(self) -> None:
        self.centre = bind_centre(self.taken, self.row.step)

    def sums(self, tile: Tile) -> list[Value]:
        g, row = tile.g, self.row
        accs = accumulators(len(tile.offsets), [4] * _HALF, "int32")
        clear(accs)
        run = len(row.starts) * _HALF * row.step
        x, w = tile.inputs, tile.weights
        with ExitStack() as stack:
            if g.kernel[0] > 1:
                ky = stack.enter_context(loop(g.kernel[0]))
                x = x.at(ky * (g.dilation[0] * g.row_width * g.in_cells))
                w = w.at(ky * (run * row.count // g.kernel[0]))
            if row.count > g.kernel[0]:
                kx = stack.enter_context(loop(g.kernel[1]))
                x, w = x.at(kx * (g.dilation[1] * g.in_cells)), w.at(kx * run)
            self._run(x.bind("x_row"), w.bind("w_row"), tile.offsets, accs)
        return [_joined(channels) for channels in accs]

    def _run(self, x: Pointer, w: Pointer, offsets: Sequence[int], accs: list[list[Register]]) -> None:
        """One run of vectors: a loop over full groups of them, then the rest."""
        row, size = self.row, self.vectors
        count, vector_weights = len(row.starts), _HALF * row.step
        looped = count // size if row.length % row.step == 0 and count >= 2 * size else 0
        if looped:
            with loop(looped) as k:
                starts = [i * row.step for i in range(size)]
                self._group(x.at(k * (size * row.step)), starts, w.at(k * (size * vector_weights)), offsets, accs)
        for first in range(looped * size, count, size):
            self._group(x, row.starts[first : first + size], w.at(first * vector_weights), offsets, accs)

    def _group(
        self, x: Pointer, starts: list[int], w: Pointer, offsets: Sequence[int], accs: list[list[Register]]
    ) -> None:
        """Products of a few vectors, added in 16 bits and then to the accumulators."""
        step = self.row.step
        xs = [[let(less(x.load(step, offset + s), self.centre), "x") for s in starts] for offset in offsets]
        for o in range(_HALF):
            ws = [let(w.load(step, (i * _HALF + o) * step), "w") for i in range(len(starts))]
            for channels, vectors in zip(accs, xs, strict=True):
                words = let(products(eighths(vectors), eighths(ws)), "words")
                pairs = intrinsic("llvm.aarch64.neon.saddlp", "int32", 4, words)
                channels[o].value = channels[o].value + pairs


def _joined(accs: list[Register]) -> Value:
    """The sum of the four lanes of each accumulator."""
    vectors = [acc.value for acc in accs]
    for _ in range(2):
        vectors = [
            intrinsic("llvm.aarch64.neon.addp", "int32", 4, *vectors[i : i + 2]) for i in range(0, len(vectors), 2)
        ]
    return shuffle(vectors, range(_HALF))


class ByteLanes(TileMachine):
    """Depthwise: smull and smlal of 16 channels, as many taps as 16 bits hold before saddw widens the sums.

    Weights int8[C/16, KH * KW, 16].
    """

    channels = BLOCK
    biased = True
    terms = 1

    def __init__(self, precision: Precision) -> None:
        self.taken = centre(precision.activation_bits)
        self.depth = exact_depth(precision.weight_bits, precision.activation_bits)

    def pack(self, weight: Int8Array) -> npt.NDArray[Any]:
        return diagonal_weight(weight)

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, steps, BLOCK)

    def block_bytes(self, steps: int) -> int:
        return steps * BLOCK

    def prepare(self) -> None:
        self.centre = bind_centre(self.taken)

    def sums(self, tile: Tile) -> list[Value]:
        g = tile.g
        kh, kw = g.kernel
        bias = let(tile.bias.load(BLOCK), "bias")
        accs = [Register(BLOCK, "int32") for _ in tile.offsets]
        for acc in accs:
            acc.value = bias
        x, w = tile.inputs.bind("x_tile"), tile.weights.bind("w_tile")
        if kh * kw <= _UNROLLED_TAPS:
            self._taps(tile, [(r, c) for r in range(kh) for c in range(kw)], x, w, accs)
        else:
            with loop(kh) as ky:
                x_row = x.at(ky * (g.dilation[0] * g.row_width * g.in_cells)).bind("x_row")
                w_row = w.at(ky * (kw * BLOCK)).bind("w_row")
                self._taps(tile, [(0, c) for c in range(kw)], x_row, w_row, accs)
        return [acc.value for acc in accs]

    def _taps(self, tile: Tile, taps: list[tuple[int, int]], x: Pointer, w: Pointer, accs: list[Register]) -> None:
        """Add the products of `taps`, whose weights lie behind each other from `w`; positions share loads."""
        g = tile.g
        ws = [let(w.load(BLOCK, t * BLOCK), "w") for t in range(len(taps))]
        tap_offsets = [(r * g.dilation[0] * g.row_width + c * g.dilation[1]) * g.in_cells for r, c in taps]
        loaded: dict[int, Value] = {}
        for acc, offset in zip(accs, tile.offsets, strict=True):
            for first in range(0, len(taps), self.depth):
                group = slice(first, first + self.depth)
                places = [offset + tap for tap in tap_offsets[group]]
                for at in places:
                    if at not in loaded:
                        loaded[at] = let(less(x.load(BLOCK, at), self.centre), "x")
                xs, halves = [loaded[at] for at in places], []
                for lanes in (range(8), range(8, BLOCK)):
                    words = products([x.lanes_of(lanes) for x in xs], [w.lanes_of(lanes) for w in ws[group]])
                    halves.append(let(words, "words"))
                acc.value = acc.value + shuffle(halves, range(BLOCK)).cast("int32")


class NeonNibbles(NibbleMachine):
    """tbl looks up one table, uadalp adds two bits of a weight, uaddw single ones."""

    rows = 1
    registers = 32
    byte_channels = tuple(range(16))

    def find(self, tables: Value, index: Value) -> Value:
        return intrinsic("llvm.aarch64.neon.tbl1", "uint8", 16, tables, index)

    def add_pairs(self, acc: Value, found: Value) -> Value:
        return acc + intrinsic("llvm.aarch64.neon.uaddlp", "uint16", 8, found)

    def count(self, counters: Counters, found: Value) -> None:
        for half, counter in enumerate(counters):
            counter.value = counter.value + found.lanes_of(range(8 * half, 8 * half + 8)).cast("uint16")

    def halves(self, counters: list[Value]) -> list[Value]:
        return counters
