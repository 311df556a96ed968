"""Convolution as plain arithmetic: exact integer accumulators and the float reference.

Data are channels-last with logical channels, weights OHWI with I = in_channels / groups. Each kernel tap is one matrix
product over all positions, in float64: integers of this size are exact there (|x w| <= 255 * 127, and far fewer than
2^38 of them are added), so BLAS gives the integer result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import unsigned_range, weight_range
from tvm_mpq.schema import Conv2dWorkload

BIAS_LIMIT = 2**30
"""|bias| in accumulator units; the other half of int32 is for the products."""


def most_terms(weight_bits: int, activation_bits: int) -> int:
    """How many products of the greatest operands int32 holds beside the greatest bias.

    An activation less its zero point is at most 2^activation_bits - 1. Sums on the way may leave int32: kernels add
    modulo 2^32, so that only the last one counts.

    >>> most_terms(8, 8), most_terms(4, 8)
    (33155, 601536)
    """
    product = unsigned_range(activation_bits)[1] * weight_range(weight_bits)[1]
    return (2**31 - 1 - BIAS_LIMIT) // product


def fold_bias(
    bias: npt.NDArray[Any], input_scale: float, weight_scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.int32]:
    """int32[O] bias in accumulator units: round_half_even(bias / (input_scale * weight_scale)), within +-2^30.

    Raises
    ------
    InvalidValueError
        If a bias is NaN or infinite.
    """
    wide = _finite(bias)
    steps = np.rint(wide / (np.float64(input_scale) * weight_scale.astype(np.float64)))
    return np.asarray(np.clip(steps, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32))


def least_scale(bias: npt.NDArray[Any], input_scale: float) -> npt.NDArray[np.float32]:
    """float32[O] weight scales at which `fold_bias` reaches +-2^30: |bias| / (input_scale * 2^30).

    With a smaller scale (a channel of weights near zero) the bias would be clipped. At this scale the products of such
    a channel change its result by less than terms * (2^activation_bits - 1) / 2^30 of the bias.

    Raises
    ------
    InvalidValueError
        If a bias is NaN or infinite.
    """
    with np.errstate(over="ignore", under="ignore"):
        scale = np.abs(_finite(bias)) / (np.float64(input_scale) * BIAS_LIMIT)
        return np.asarray(np.minimum(scale, np.finfo(np.float32).max).astype(np.float32))


def integer_conv2d(
    x: npt.NDArray[np.uint8],
    zero_point: int,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    workload: Conv2dWorkload,
) -> npt.NDArray[np.int32]:
    """acc = bias + sum (x - zero_point) * weight; cells of the padding and of input dilation add nothing.

    Parameters
    ----------
    x : uint8[N, H, W, C]
    weight : int8[O, KH, KW, C / groups]
    bias : int32[O]

    Returns
    -------
    acc : int32[N, OH, OW, O]

    Raises
    ------
    InvalidValueError
        If an accumulator leaves int32.
    """
    wide = _convolve(x.astype(np.float64) - zero_point, weight.astype(np.float64), workload)
    acc = wide.astype(np.int64) + bias.astype(np.int64)
    limits = np.iinfo(np.int32)
    if acc.size and (acc.min() < limits.min or acc.max() > limits.max):
        raise InvalidValueError(f"accumulators must fit int32 (got [{acc.min()}, {acc.max()}] in {workload.key})")
    return acc.astype(np.int32)


def float_conv2d(
    x: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    workload: Conv2dWorkload,
) -> npt.NDArray[np.float64]:
    """float64[N, OH, OW, O] of conv(x, weight) + bias, before residual and activation."""
    y = _convolve(x.astype(np.float64), weight.astype(np.float64), workload)
    return y if bias is None else np.asarray(y + bias.astype(np.float64))


def _convolve(x: npt.NDArray[np.float64], w: npt.NDArray[np.float64], work: Conv2dWorkload) -> npt.NDArray[np.float64]:
    channels, groups = work.in_channels, work.groups
    data_shape = (work.batch, work.in_height, work.in_width, channels)
    weight_shape = (work.out_channels, *work.kernel, channels // groups)
    if x.shape != data_shape or w.shape != weight_shape:
        raise InvalidValueError(
            f"conv2d data and weight must have the shapes {data_shape} and {weight_shape} (got {x.shape} and {w.shape})"
        )
    x = _padded(_dilated(x, work), work.padding)
    rows, columns = work.out_height, work.out_width
    positions = work.batch * rows * columns
    per_group = work.out_channels // groups
    # [groups, O/groups, KH, KW, I]
    w = w.reshape(groups, per_group, *work.kernel, channels // groups)
    depthwise = channels == groups  # one product a tap; a matrix product with inner size 1 would be slow
    y = np.zeros((positions, groups, per_group) if depthwise else (groups, positions, per_group))
    for i in range(work.kernel[0]):
        for j in range(work.kernel[1]):
            y0, x0 = i * work.dilation[0], j * work.dilation[1]
            tap = x[
                :,
                y0 : y0 + (rows - 1) * work.stride[0] + 1 : work.stride[0],
                x0 : x0 + (columns - 1) * work.stride[1] + 1 : work.stride[1],
            ]
            data = np.ascontiguousarray(tap).reshape(positions, groups, channels // groups)
            if depthwise:
                y += data * w[:, :, i, j, 0]
            else:
                y += data.transpose(1, 0, 2) @ w[:, :, i, j, :].transpose(0, 2, 1)
    if not depthwise:
        y = np.ascontiguousarray(y.transpose(1, 0, 2))
    return y.reshape(work.batch, rows, columns, work.out_channels)


def _padded(x: npt.NDArray[np.float64], padding: tuple[int, int, int, int]) -> npt.NDArray[np.float64]:
    """Zeros around the rows and columns of x; where the padding is negative, as many of them are cut off."""
    top, left, bottom, right = padding
    height, width = x.shape[1:3]
    x = x[:, max(0, -top) : height - max(0, -bottom), max(0, -left) : width - max(0, -right)]
    return np.pad(x, ((0, 0), (max(0, top), max(0, bottom)), (max(0, left), max(0, right)), (0, 0)))


def _dilated(x: npt.NDArray[np.float64], work: Conv2dWorkload) -> npt.NDArray[np.float64]:
    """x with `input_dilation - 1` zeros between neighbouring rows and columns."""
    if work.input_dilation == (1, 1):
        return x
    wide = np.zeros((work.batch, work.dilated_height, work.dilated_width, work.in_channels))
    wide[:, :: work.input_dilation[0], :: work.input_dilation[1]] = x
    return wide


def _finite(bias: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = np.asarray(bias, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise InvalidValueError(f"bias must be finite (got {wide[~np.isfinite(wide)][0]}); repair the model")
    return wide
