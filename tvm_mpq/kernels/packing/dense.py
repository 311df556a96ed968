"""Weights of the integer convolutions as machines read them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packing.phases import phase_weights
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, ChannelWindow, blocks, conv_of
from tvm_mpq.numerics.arrays import ByteArray, Int8Array
from tvm_mpq.schema import Conv2dWorkload


class WeightLayout(Protocol):
    """How a machine stores the weights of a convolution."""

    @property
    def channels(self) -> int:
        """Input channels of one step."""

    def pack(self, weight: Int8Array) -> npt.NDArray[np.generic]:
        """int8[O, KH, KW, cells] to the stored array."""


def padded_weight(weight: Int8Array, cells: int) -> Int8Array:
    """int8[O, KH, KW, I] -> int8[O, KH, KW, cells], missing input channels being 0."""
    return np.pad(weight, [(0, 0)] * 3 + [(0, cells - weight.shape[3])])


def windowed_weight(weight: Int8Array, groups: int, starts: list[int], cells: int) -> Int8Array:
    """Grouped weights as dense ones over a window of input channels for each block of 16 output channels.

    int8[O, KH, KW, I / groups] -> int8[O, KH, KW, cells]; the window of block b begins at input channel starts[b].
    """
    o, kh, kw, per_group = weight.shape
    out = np.zeros((o, kh, kw, cells), np.int8)
    for c in range(o):
        first = c // (o // groups) * per_group - starts[c // BLOCK]
        out[c, :, :, first : first + per_group] = weight[c]
    return out


def packed_weight(request: Request, layout: WeightLayout, weight: Int8Array) -> npt.NDArray[np.generic]:
    """int8[O, KH, KW, I / groups] as `layout` stores it, grouped ones by their windows."""
    w = conv_of(request)
    return np.concatenate([layout.pack(_windowed(w, layout, part)) for part in phase_weights(w, weight)])


def _windowed(w: Conv2dWorkload, layout: WeightLayout, weight: Int8Array) -> Int8Array:
    window = ChannelWindow.of(w, layout.channels)
    if w.groups == 1:
        return padded_weight(weight, window.cells)
    starts = [window.start(b) for b in range(blocks(w.out_channels))]
    return windowed_weight(weight, w.groups, starts, window.cells)


def blocked_weight(weight: Int8Array, step: int) -> Int8Array:
    """int8[O, KH, KW, cells] -> int8[ceil(O/16), KH * KW * cells / step, 16, step]; missing output channels are 0."""
    o, kh, kw, cells = weight.shape
    full = np.zeros((blocks(o) * BLOCK, kh, kw, cells), np.int8)
    full[:o] = weight
    split = full.reshape(blocks(o), BLOCK, kh * kw * cells // step, step)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def diagonal_weight(weight: Int8Array) -> Int8Array:
    """Depthwise int8[C, KH, KW, 16] of windows -> int8[ceil(C/16), KH * KW, 16]: what each channel takes of itself."""
    o, kh, kw, _ = weight.shape
    full = np.zeros((blocks(o) * BLOCK, kh, kw), np.int8)
    full[:o] = weight[np.arange(o), :, :, np.arange(o) % BLOCK]
    return np.ascontiguousarray(full.reshape(-1, BLOCK, kh * kw).transpose(0, 2, 1))


def nibble_weight(weight: Int8Array) -> ByteArray:
    """4 bit weights int8[O, KH, KW, cells] -> uint8[ceil(O/16), KH * KW * cells / 8, 16, 4].

    Steps of 4 input channels in the order of `blocked_weight` are paired: the low nibbles hold the first step, the high
    ones the second, both in two's complement; an odd last step is paired with zeros.
    """
    bits = blocked_weight(weight, 4).view(np.uint8) & 0x0F
    bits = np.pad(bits, [(0, 0), (0, bits.shape[1] % 2), (0, 0), (0, 0)])
    return np.ascontiguousarray(bits[:, 0::2] | (bits[:, 1::2] << 4))
