"""Constants of the integer convolutions as arrays: packed weights, folded bias, multipliers, ranges."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packing.phases import phase_weights
from tvm_mpq.kernels.packing.ranges import bounded, limited
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, ChannelWindow, blocks
from tvm_mpq.numerics.constants import ConvConstants, conv_constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload

Int8 = npt.NDArray[np.int8]


class WeightLayout(Protocol):
    """How a machine stores the weights of a dense convolution; `channels`: input channels of one step."""

    @property
    def channels(self) -> int: ...

    def pack(self, weight: Int8) -> npt.NDArray[np.generic]:
        """int8[O, KH, KW, cells] to the stored array."""


def integer_constants(request: Request, operands: Operands) -> ConvConstants:
    """The numbers of the request's convolution, before packing."""
    assert isinstance(request.workload, Conv2dWorkload)
    return conv_constants(request.workload, request.precision.weight_bits, request.out_bits, operands)


def padded_weight(weight: Int8, cells: int) -> Int8:
    """int8[O, KH, KW, I] -> int8[O, KH, KW, cells], zeros behind."""
    return np.pad(weight, [(0, 0)] * 3 + [(0, cells - weight.shape[3])])


def windowed_weight(weight: Int8, groups: int, starts: list[int], cells: int) -> Int8:
    """Grouped weights as dense ones over a window of input channels for each block of 16 output channels.

    int8[O, KH, KW, I / groups] -> int8[O, KH, KW, cells]; the window of block b begins at input channel starts[b].
    """
    o, kh, kw, per_group = weight.shape
    out = np.zeros((o, kh, kw, cells), np.int8)
    for c in range(o):
        first = c // (o // groups) * per_group - starts[c // BLOCK]
        out[c, :, :, first : first + per_group] = weight[c]
    return out


def packed_weight(request: Request, layout: WeightLayout, weight: Int8) -> npt.NDArray[np.generic]:
    """int8[O, KH, KW, I / groups] as `layout` stores it, grouped ones by their windows."""
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    return np.concatenate([layout.pack(_windowed(w, layout, part)) for part in phase_weights(w, weight)])


def _windowed(w: Conv2dWorkload, layout: WeightLayout, weight: Int8) -> Int8:
    window = ChannelWindow.of(w, layout.channels)
    if w.groups == 1:
        return padded_weight(weight, window.cells)
    starts = [window.start(b) for b in range(blocks(w.out_channels))]
    return windowed_weight(weight, w.groups, starts, window.cells)


def blocked_weight(weight: Int8, step: int) -> Int8:
    """int8[O, KH, KW, cells] -> int8[ceil(O/16), KH * KW * cells / step, 16, step]; missing output channels are 0."""
    o, kh, kw, cells = weight.shape
    full = np.zeros((blocks(o) * BLOCK, kh, kw, cells), np.int8)
    full[:o] = weight
    split = full.reshape(blocks(o), BLOCK, kh * kw * cells // step, step)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def diagonal_weight(weight: Int8) -> Int8:
    """Depthwise int8[C, KH, KW, 16] of windows -> int8[ceil(C/16), KH * KW, 16]: what each channel takes of itself."""
    o, kh, kw, _ = weight.shape
    full = np.zeros((blocks(o) * BLOCK, kh, kw), np.int8)
    full[:o] = weight[np.arange(o), :, :, np.arange(o) % BLOCK]
    return np.ascontiguousarray(full.reshape(-1, BLOCK, kh * kw).transpose(0, 2, 1))


def nibble_weight(weight: Int8) -> npt.NDArray[np.uint8]:
    """4 bit weights int8[O, KH, KW, cells] -> uint8[ceil(O/16), KH * KW * cells / 8, 16, 4].

    Steps of 4 input channels in the order of `blocked_weight` are paired: the low nibbles hold the first step, the high
    ones the second, both in two's complement; an odd last step is paired with zeros.
    """
    bits = blocked_weight(weight, 4).view(np.uint8) & 0x0F
    bits = np.pad(bits, [(0, 0), (0, bits.shape[1] % 2), (0, 0), (0, 0)])
    return np.ascontiguousarray(bits[:, 0::2] | (bits[:, 1::2] << 4))


def with_ranges(request: Request, c: ConvConstants, weight: npt.NDArray[Any], taken: int = 0) -> list[np.ndarray]:
    """[weight, bias int32[P * Ob], multiplier float32[Ob], q int32[8], f float32[4], (table)], Ob = multiple of 16.

    bias holds -input zero point * sum of the channel's weights (modulo 2^32, as the kernels' sums are), for each of P
    phases of a dilated input, else once. taken: what the kernel takes from every input before it multiplies.
    """
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    out = blocks(len(c.weight)) * BLOCK
    channel_bias, channel_multiplier = c.bias, c.multiplier
    if request.out_bits != FLOAT_BITS and not w.residual and bounded(w, request.precision.weight_bits):
        channel_bias, channel_multiplier = limited(w, request.precision.weight_bits, c.bias, c.multiplier)
    parts = phase_weights(w, c.weight)
    bias = np.zeros((len(parts), out), np.int32)
    for row, part in zip(bias, parts, strict=True):
        folded = channel_bias.astype(np.int64) - (c.input_zero_point - taken) * part.astype(np.int64).sum(
            axis=(1, 2, 3)
        )
        row[: len(folded)] = folded.astype(np.int32)
    multiplier = np.zeros(out, np.float32)
    multiplier[: len(channel_multiplier)] = channel_multiplier
    end = c.finish
    q = np.array([c.input_zero_point, end.zero_point, end.lo, end.hi, c.residual_zero_point, 0, 0, 0], np.int32)
    f = np.array([c.residual_multiplier, end.float_lo, end.float_hi, 0], np.float32)
    return [weight, bias.ravel(), multiplier, q, f, *([] if end.table is None else [end.table])]
