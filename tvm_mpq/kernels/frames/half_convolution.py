"""The frame of convolutions in halves: that of floats, but for sums of short blocks that are widened to float32.

A tile has two sets of accumulators. Products of one block of terms (`numerics.float16`) meet in halves, in registers;
the sums of blocks in float32, which LLVM keeps on the stack while a block is added up. At the end of the tile the sums
are multiplied by the inverse of their channel's scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tvm_mpq.kernels.emit import Function, Index, Parameter, Register, Value, accumulators, clear, loop
from tvm_mpq.kernels.frames.float_convolution import FloatConvolution, Writer
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.kernels.frames.reduction import Reduction
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.numerics.float16 import blocks_of


class HalfConvolution(FloatConvolution):
    """Plans the loops; `_HalfWriter` writes them."""

    def __init__(self, request: Request, knobs: Knobs, product: FloatProduct) -> None:
        super().__init__(request, knobs, product)
        self.sums = blocks_of(self.workload)

    @property
    def parameters(self) -> Parameters:
        """Those of the float convolution, and behind the bias the inverses of the channels' scales."""
        given = super().parameters
        bias = given.constants[-1]
        scale = Parameter("scale", bias.shape, bias.dtype)
        return dataclasses.replace(given, constants=(*given.constants, scale))

    @property
    def writer(self) -> Callable[[FloatConvolution, Function], Writer]:
        return _HalfWriter


class _HalfWriter(Writer):
    """halves: the sums of the block that is being added up."""

    frame: HalfConvolution
    halves: list[list[Register]]

    def __init__(self, frame: FloatConvolution, f: Function) -> None:
        super().__init__(frame, f)
        self.scale = f.flat("scale")

    def begin(self, accs: list[list[Register]]) -> None:
        clear(accs)

    def finished(self, acc: Register, n: int) -> Value:
        return acc.value * self.of_channels(self.scale, n) + self.of_channels(self.bias, n)

    def add_up(self, x: Value, w: Value, shifts: list[int], accs: list[list[Register]]) -> None:
        blocks, sums = len(accs[0]), self.frame.sums
        self.halves = accumulators(len(accs), [acc.lanes for acc in accs[0]], "float16")
        whole = self.reduction(blocks)
        row_weights = whole.columns * whole.steps * whole.step_size
        if sums.rows:
            first = 0
            for rows, count in sums.rows:
                part = dataclasses.replace(whole, rows=rows)
                with loop(count) as i:
                    ky = i * rows + first
                    self._block(part, x + ky * whole.row_stride, w + ky * row_weights, shifts, accs)
                first += rows * count
            return
        with loop(whole.rows) as ky, loop(whole.columns) as kx:
            row = x + ky * whole.row_stride + kx * whole.column_stride
            weights = w + ky * row_weights + kx * (whole.steps * whole.step_size)
            first = 0
            for steps, count in sums.steps:
                part = dataclasses.replace(whole, rows=1, columns=1, steps=steps)
                with loop(count) as i:
                    step = i * steps + first
                    self._block(part, row + step * whole.width, weights + step * whole.step_size, shifts, accs)
                first += steps * count

    def _block(self, part: Reduction, x: Index, w: Index, shifts: list[int], accs: list[list[Register]]) -> None:
        """Add the products of one block."""
        clear(self.halves)
        with part.loops(x, w) as place:
            self.step(place.x, place.weights, shifts, self.halves)
        for sums, halves in zip(accs, self.halves, strict=True):
            for acc, half in zip(sums, halves, strict=True):
                acc.value = acc.value + half.value.cast("float32")
