"""Weights and bias of the float convolutions as their kernels read them. NumPy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.float_conv.products import Product
from tvm_mpq.kernels.float_conv.tiling import Geometry, Knobs
from tvm_mpq.schema import Conv2dWorkload

FloatArray = npt.NDArray[np.float32]


def pack_direct(
    w: Conv2dWorkload, knobs: Knobs, product: Product, weight: FloatArray, bias: FloatArray
) -> list[npt.NDArray[np.generic]]:
    """Flat weight and bias for `build_direct`.

    Parameters
    ----------
    weight : float32[O, KH, KW, I]
    bias : float32[O]

    Returns
    -------
    weight : product.dtype[groups * vectors * lanes * steps * width]
        For each group and each run of `blocks` vectors: [step, vector, lane, width], so that the kernel reads one
        stream. Steps go through a segment (a kernel row or position) after the other, the last one of a segment filled
        up with zeros. When the channels of a group are no multiple of `lanes`, the last vector repeats some of the one
        before.
    bias : float32[groups * vectors * lanes]
    """
    lanes, blocks = knobs["lanes"], knobs["blocks"]
    geo, width = Geometry.of(w), product.width
    per_group = w.out_channels // w.groups
    vectors = -(-per_group // lanes)
    starts = np.minimum(np.arange(vectors) * lanes, per_group - lanes)
    channel = starts[:, None] + np.arange(lanes)  # [vectors, lanes]
    segments = weight.reshape(w.out_channels, geo.segments, geo.segment)
    segments = np.pad(segments, ((0, 0), (0, 0), (0, -geo.segment % width)))
    grouped = segments.reshape(w.groups, per_group, -1, width)[:, channel]  # [groups, vectors, lanes, steps, width]
    runs = []
    for group in grouped:
        for first in range(0, vectors, blocks):
            runs.append(np.moveaxis(group[first : first + blocks], 2, 0).ravel())  # [step, vector, lane, width]
    flat_bias = bias.reshape(w.groups, per_group)[:, channel].ravel()
    return [product.packed(np.concatenate(runs)), np.ascontiguousarray(flat_bias, np.float32)]
