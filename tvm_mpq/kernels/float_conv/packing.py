"""Weights and bias of the float convolutions as their kernels read them. NumPy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.float_conv.tiling import Knobs
from tvm_mpq.schema import Conv2dWorkload

FloatArray = npt.NDArray[np.float32]


def pack_direct(w: Conv2dWorkload, knobs: Knobs, weight: FloatArray, bias: FloatArray) -> list[FloatArray]:
    """Flat weight and bias for `build_direct`.

    Parameters
    ----------
    weight : float32[O, KH, KW, I]
    bias : float32[O]

    Returns
    -------
    weight : float32[groups * vectors * lanes * KH * KW * I]
        For each group and each run of `blocks` vectors: [KH, KW, I, vector, lane], so that the kernel reads one
        stream. When the channels of a group are no multiple of `lanes`, the last vector repeats some of the one before.
    bias : float32[groups * vectors * lanes]
    """
    lanes, blocks = knobs["lanes"], knobs["blocks"]
    per_group = w.out_channels // w.groups
    vectors = -(-per_group // lanes)
    starts = np.minimum(np.arange(vectors) * lanes, per_group - lanes)
    channel = starts[:, None] + np.arange(lanes)  # [vectors, lanes]
    grouped = weight.reshape(w.groups, per_group, -1)[:, channel]  # [groups, vectors, lanes, taps]
    runs = []
    for group in grouped:
        for first in range(0, vectors, blocks):
            runs.append(np.moveaxis(group[first : first + blocks], -1, 0).ravel())  # [taps, vector, lane]
    flat_bias = bias.reshape(w.groups, per_group)[:, channel].ravel()
    return [np.ascontiguousarray(np.concatenate(runs), np.float32), np.ascontiguousarray(flat_bias, np.float32)]
