"""Convolution by smull, smlal and sadalp, for cores without sdot: sums over 16 input channels at a time.

A tile is up to 3 positions x 8 output channels. Every output channel of a position has an int32x4 of its own: bytes of
16 input channels meet the weights of the same channels in one smull and one smlal, whose eight 16 bit sums sadalp adds
to it in pairs. Nothing is broadcast. Where operands are small, more products are added in 16 bits before one sadalp. At
the end of the tile addp joins the four partial sums of each channel.

A row of taps (or one tap, when taps lie apart) is covered by vectors of 16 bytes, or 8; where they do not divide it,
the last one is moved back and its weights are zero where the one before has been.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.conv.dense import DenseFrame
from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv.epilogue import Cell
from tvm_mpq.kernels.conv_neon.centre import bind_centre, centre, load_centred
from tvm_mpq.kernels.frames.geometry import BLOCK, ChannelTiles, ChannelWindow, blocks
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Script, intrin, ramp
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.schema import Conv2dWorkload, Precision, padded_channels

_SMULL = "llvm.aarch64.neon.smull"
_SADDLP = "llvm.aarch64.neon.saddlp"
_ADDP = "llvm.aarch64.neon.addp"
_HALF = 8  # output channels of a tile
_STEP = 16


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


@dataclass(frozen=True)
class TapRow:
    """Neighbouring input bytes that one run of vectors covers."""

    length: int  # bytes
    count: int  # runs of one output position

    @classmethod
    def of(cls, w: Conv2dWorkload) -> TapRow:
        cells = ChannelWindow.of(w, _STEP).cells
        if w.dilation[1] == 1 and cells == padded_channels(w.in_channels):
            return cls(w.kernel[1] * cells, w.kernel[0])
        return cls(cells, w.kernel[0] * w.kernel[1])

    @property
    def step(self) -> int:
        """Bytes of a vector."""
        return _STEP if self.length >= _STEP else 8

    @property
    def starts(self) -> list[int]:
        """Where the vectors begin."""
        return [min(i, self.length - self.step) for i in range(0, self.length, self.step)]


class PairwiseDot(Dot):
    """Weights int8[CO/16, 2, runs, vectors of a run, 8, bytes of a vector]."""

    lanes = _HALF

    def __init__(self, workload: Conv2dWorkload, activation_bits: int) -> None:
        self.row = TapRow.of(workload)
        self.channels = min(_STEP, padded_channels(workload.in_channels))
        self.activation_bits = activation_bits

    @property
    def step_bytes(self) -> int:
        return _HALF * self.row.step

    def block_bytes(self, steps: int) -> int:
        """A run may hold more bytes than its taps, so the frame's count of steps does not tell."""
        return 2 * self.row.count * len(self.row.starts) * self.step_bytes

    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        return (out_blocks, 2, self.row.count, len(self.row.starts), _HALF, self.row.step)

    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        row, out = self.row, len(weight)
        flat = weight.reshape(out, row.count, row.length)
        full = np.zeros((blocks(out) * BLOCK, row.count, len(row.starts), row.step), np.int8)
        done = 0
        for i, start in enumerate(row.starts):
            full[:out, :, i, done - start :] = flat[:, :, done : start + row.step]
            done = start + row.step
        split = full.reshape(-1, 2, _HALF, *full.shape[1:])
        return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2, 5))

    def registers(self, positions: int, vectors: int) -> int:
        return positions * (_HALF + 1) + 4

    def header(self, code: Code) -> None:
        bind_centre(code, self.activation_bits, self.row.step)

    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        raise AssertionError("a tile of this family has more accumulators than the frame's")


def build_pairwise(request: Request, knobs: Knobs, deferred: bool) -> Script:
    """The convolution of `request` with tile knobs {"rows", "columns", "blocks", "order"}.

    deferred: add as many products in 16 bits as are exact, up to eight; otherwise two.
    """
    return _Pairwise(request, knobs, deferred).build()


class _Pairwise(DenseFrame):
    """The dense frame around a tile of its own."""

    def __init__(self, request: Request, knobs: Knobs, deferred: bool) -> None:
        assert isinstance(request.workload, Conv2dWorkload)
        dot = PairwiseDot(request.workload, request.precision.activation_bits)
        super().__init__(request, {**knobs, "blocks": 1}, dot)
        self.row = dot.row
        depth = deferred_depth(request.precision) if deferred else 2
        self.vectors = depth * 8 // self.row.step  # of a run, added before one sadalp

    def _tile(self, part: ChannelTiles) -> None:
        g, code = self.g, self.code
        positions = [(r, c) for r in range(self.rows) for c in range(self.columns)]
        halves = 1 if self.all_blocks == 1 and self.epilogue.stored_channels <= _HALF else 2
        with code.block(f"for half in range({halves}):"):
            code.let("channel", f"block * {BLOCK} + half * {_HALF}")
            accs = [[f"a{p}_{o}[{ramp(0, 4)}]" for o in range(_HALF)] for p in range(len(positions))]
            for p, row in enumerate(accs):
                for o, acc in enumerate(row):
                    code.line(f'a{p}_{o} = T.alloc_buffer((4,), "int32")')
                    code.line(f"{acc} = T.Broadcast(0, 4)")
            self._sum(positions, accs)
            code.let("b", f"bias[{ramp('channel', _HALF)}]")
            code.let("m", f"multiplier[{ramp('channel', _HALF)}]")
            cells = []
            for p, (r, c) in enumerate(positions):
                fours = [_joined(accs[p][i : i + 4]) for i in range(0, _HALF, 4)]
                acc = code.let(f"t{p}", f"T.Shuffle([{', '.join(fours)}], {list(range(_HALF))}) + b")
                position = f"(n * {g.out_height} + oh + {r}) * {g.out_width} + ow + {c}"
                cells.append(Cell(acc, "m", position, "channel"))
            self.epilogue.finish(code, cells)

    def _sum(self, positions: list[tuple[int, int]], accs: list[list[str]]) -> None:
        """All products of a tile."""
        g, code, row = self.g, self.code, self.row
        kh, kw = g.kernel
        plane = "0" if g.bordered else f"n * {g.in_height}"
        corner = f"(({plane}) + oh * {g.stride[0]}) * {g.row_width} + ow * {g.stride[1]}"
        x = f"base + ({corner}) * {g.in_cells} + {self.window.start_code('block')}"
        w = f"block * {self.block_bytes} + half * {self.block_bytes // 2}"
        run = len(row.starts) * _HALF * row.step
        offsets = [(r * g.stride[0] * g.row_width + c * g.stride[1]) * g.in_cells for r, c in positions]
        with ExitStack() as stack:
            if kh > 1:
                stack.enter_context(code.block(f"for ky in range({kh}):"))
                x += f" + ky * {g.dilation[0] * g.row_width * g.in_cells}"
                w += f" + ky * {run * row.count // kh}"
            if row.count > kh:
                stack.enter_context(code.block(f"for kx in range({kw}):"))
                x += f" + kx * {g.dilation[1] * g.in_cells}"
                w += f" + kx * {run}"
            code.let("x_row", x)
            code.let("w_row", w)
            self._run(offsets, accs)

    def _run(self, offsets: list[int], accs: list[list[str]]) -> None:
        """One run of vectors: a loop over full groups of them, then the rest."""
        code, row = self.code, self.row
        count, size = len(row.starts), self.vectors
        looped = count // size if row.length % row.step == 0 and count >= 2 * size else 0
        if looped:
            with code.block(f"for k in range({looped}):"):
                starts = [i * row.step for i in range(size)]
                x, w = f"x_row + k * {size * row.step}", f"w_row + k * {size * _HALF * row.step}"
                self._group("k", x, starts, w, offsets, accs)
        for first in range(looped * size, count, size):
            w = f"w_row + {first * _HALF * row.step}"
            self._group(str(first), "x_row", row.starts[first : first + size], w, offsets, accs)

    def _group(self, mark: str, x: str, starts: list[int], w: str, offsets: list[int], accs: list[list[str]]) -> None:
        """Products of a few vectors, added in 16 bits and then to the accumulators; `mark` makes names unique."""
        code, step = self.code, self.row.step
        for p, offset in enumerate(offsets):
            for i, start in enumerate(starts):
                code.let(f"x{p}_{i}_{mark}", load_centred(f"{x} + {offset + start}", step))
        eighths = [(i, h) for i in range(len(starts)) for h in range(step // 8)]
        for o in range(_HALF):
            for i in range(len(starts)):
                code.let(f"w{o}_{i}_{mark}", f"W[{ramp(f'{w} + {(i * _HALF + o) * step}', step)}]")
            weights = [_eighth(f"w{o}_{i}_{mark}", h, step) for i, h in eighths]
            for p, row in enumerate(accs):
                values = [_eighth(f"x{p}_{i}_{mark}", h, step) for i, h in eighths]
                products = [intrin("int16x8", _SMULL, *pair) for pair in zip(values, weights, strict=True)]
                s = code.let(f"s{p}_{o}_{mark}", " + ".join(products))
                code.line(f"{row[o]} = {row[o]} + {intrin('int32x4', _SADDLP, s)}")


def _eighth(vector: str, index: int, step: int) -> str:
    """Eight bytes of a vector."""
    return vector if step == 8 else f"T.Shuffle([{vector}], {list(range(8 * index, 8 * index + 8))})"


def _joined(accs: list[str]) -> str:
    """The sums of four vectors of four as one vector."""
    first, second = (intrin("int32x4", _ADDP, *accs[i : i + 2]) for i in (0, 2))
    return intrin("int32x4", _ADDP, first, second)
