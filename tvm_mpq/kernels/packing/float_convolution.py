"""Weights and bias of the float convolutions as their kernels read them. NumPy only."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.packing.phases import phase_weights
from tvm_mpq.kernels.registry import Knobs
from tvm_mpq.kernels.shapes.geometry import Segments
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload


class FloatLayout(Protocol):
    """How a machine stores the weights of a float convolution; `width`: neighbouring inputs of one step."""

    @property
    def width(self) -> int: ...

    def packed(self, weight: FloatArray) -> npt.NDArray[np.generic]:
        """Weights in the type that it computes with."""


def pack_direct(
    w: Conv2dWorkload, knobs: Knobs, product: FloatLayout, weight: FloatArray, bias: FloatArray
) -> list[npt.NDArray[np.generic]]:
    """Flat weight and bias for `FloatConvolution`.

    Parameters
    ----------
    weight : float32[O, KH, KW, I]
    bias : float32[O]

    Returns
    -------
    weight : product.dtype[phases * groups * vectors * lanes * steps * width]
        For each phase of a dilated input (otherwise one), each group and each run of `blocks` vectors: [step, vector,
        lane, width], so that the kernel reads one stream. Steps go through a segment (a kernel row or position) after
        the other, the last one of a segment filled up with zeros. When the channels of a group are no multiple of
        `lanes`, the last vector repeats some of the one before.
    bias : float32[groups * vectors * lanes]
    """
    lanes, blocks = knobs["lanes"], knobs["blocks"]
    runs_of, width = Segments.of(w), product.width
    per_group = w.out_channels // w.groups
    vectors = tiles(per_group, lanes)
    channel = _starts(per_group, lanes)[:, None] + np.arange(lanes)  # [vectors, lanes]
    runs = []
    for part in phase_weights(w, weight):
        segments = part.reshape(w.out_channels, runs_of.count, runs_of.length)
        segments = np.pad(segments, ((0, 0), (0, 0), (0, -runs_of.length % width)))
        grouped = segments.reshape(w.groups, per_group, -1, width)[:, channel]  # [groups, vectors, lanes, steps, width]
        for group in grouped:
            for first in range(0, vectors, blocks):
                runs.append(np.moveaxis(group[first : first + blocks], 2, 0).ravel())  # [step, vector, lane, width]
    return [product.packed(np.concatenate(runs)), by_vector(w, lanes, bias)]


def by_vector(w: Conv2dWorkload, lanes: int, values: FloatArray) -> FloatArray:
    """float32[O], a number for each output channel -> float32[groups * vectors * lanes], as weights repeat some."""
    per_group = w.out_channels // w.groups
    channel = _starts(per_group, lanes)[:, None] + np.arange(lanes)
    return np.ascontiguousarray(values.reshape(w.groups, per_group)[:, channel].ravel(), np.float32)


def _starts(channels: int, lanes: int) -> npt.NDArray[np.intp]:
    """The first channel of each vector; the last one is moved back where it would reach beyond the channels."""
    return np.minimum(np.arange(tiles(channels, lanes)) * lanes, channels - lanes)


def pack_depthwise(w: Conv2dWorkload, weight: FloatArray, bias: FloatArray) -> list[FloatArray]:
    """weight float32[C, KH, KW, 1] -> float32[KH * KW * C] (channels innermost); bias float32[C] as it is."""
    taps = w.kernel[0] * w.kernel[1]
    packed = weight.reshape(w.out_channels, taps).T.ravel()
    return [np.ascontiguousarray(packed, np.float32), np.ascontiguousarray(bias, np.float32)]


def weight_and_bias(operands: Operands) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays. Raises InvalidValueError where one is missing."""
    if operands.weight is None or operands.bias is None:
        raise InvalidValueError("a float convolution needs a weight and a bias (zeros when the layer has none)")
    return operands.weight, operands.bias
