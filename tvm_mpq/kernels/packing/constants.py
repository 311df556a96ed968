"""What every integer convolution takes behind its inputs: packed weights, biases, multipliers, ranges, a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packing.phases import phase_weights
from tvm_mpq.kernels.packing.ranges import bounded, limited
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks, conv_of
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.numerics.constants import conv_constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS


def convolution_constants(
    request: Request,
    operands: Operands,
    pack: Callable[[Int8Array], npt.NDArray[np.generic]],
    *,
    taken: int = 0,
    more_bias: Callable[[Int8Array], npt.NDArray[np.int32]] | None = None,
    order: npt.NDArray[np.int64] | None = None,
) -> list[np.ndarray]:
    """The constants of `convolution_parameters`, in its order.

    Parameters
    ----------
    pack
        int8[O, KH, KW, I / groups] to the weights as the kernel reads them.
    taken
        What the kernel takes from every input before it multiplies.
    more_bias
        int8[O, KH, KW, I / groups] to int32[O]: what the kernel's sums lack beside that.
    order
        The channel of each lane, where biases and multipliers are not in the order of the channels: a permutation of
        0..Ob - 1.

    Returns
    -------
    weight : what `pack` returns
    bias : int32[P * Ob], Ob = O rounded up to 16
        For each of P phases of a dilated input, otherwise once: the bias, less (zero point - taken) times the sum of
        the channel's weights. Modulo 2^32, as the kernels' sums are.
    multiplier : float32[Ob]
    q : int32[8]
        Zero points of input and output, the output's range, the residual's zero point, zeros.
    f : float32[4]
        The residual's multiplier, the output's range as floats, a zero.
    table : uint8[256]
        Only where the activation is no clamp.
    """
    w, bits = conv_of(request), request.precision.weight_bits
    numbers = conv_constants(w, bits, request.out_bits, operands)
    bias, multiplier = numbers.bias, numbers.multiplier
    if request.out_bits != FLOAT_BITS and not w.residual and bounded(w, bits):
        bias, multiplier = limited(w, bits, bias, multiplier)
    channels = bias.astype(np.int64)
    if more_bias is not None:
        channels += more_bias(numbers.weight)
    lanes = blocks(w.out_channels) * BLOCK
    places = np.arange(lanes) if order is None else order
    sums = [part.astype(np.int64).sum(axis=(1, 2, 3)) for part in phase_weights(w, numbers.weight)]
    biases = [_filled(channels - (numbers.input_zero_point - taken) * total, lanes)[places] for total in sums]
    end = numbers.finish
    q = [numbers.input_zero_point, end.zero_point, end.lo, end.hi, numbers.residual_zero_point, 0, 0, 0]
    f = [numbers.residual_multiplier, end.float_lo, end.float_hi, 0]
    return [
        pack(numbers.weight),
        np.concatenate(biases).astype(np.int32),
        _filled(multiplier, lanes)[places],
        np.array(q, np.int32),
        np.array(f, np.float32),
        *([] if end.table is None else [end.table]),
    ]


def _filled(values: np.ndarray, lanes: int) -> np.ndarray:
    """`values` and zeros behind, so many in all."""
    return np.pad(values, (0, lanes - len(values)))
