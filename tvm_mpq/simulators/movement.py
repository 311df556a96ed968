"""How many numbers operators without weights carry: they are priced by that alone on a simulated machine."""

from __future__ import annotations

import math

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.schema import (
    FLOAT_BITS,
    ActivationWorkload,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    ConvertWorkload,
    CopyWorkload,
    MultiplyWorkload,
    NormWorkload,
    Pool2dWorkload,
    Precision,
    Workload,
)

BYTE = 8


def moved_bits(workload: Workload, precision: Precision) -> float:
    """Bits read and written by an operator without weights: 32 a number in floats, 8 in integers, whatever their bits.

    Raises
    ------
    UnsupportedModelError
        For a recurrent layer, of which no simulator here knows anything.
    """
    if isinstance(workload, ConvertWorkload):
        return math.prod(workload.shape) * (workload.from_bits + workload.to_bits)
    return _numbers(workload) * (FLOAT_BITS if precision.is_float else BYTE)


def _numbers(workload: Workload) -> int:
    match workload:
        case Pool2dWorkload(batch=n, channels=c):
            return n * c * (workload.in_height * workload.in_width + workload.out_height * workload.out_width)
        case AddWorkload(shape=shape) | MultiplyWorkload(shape=shape, broadcast=False):
            return 3 * math.prod(shape)
        case MultiplyWorkload(shape=shape):
            return 2 * math.prod(shape) + shape[0] * shape[-1]
        case ConcatWorkload(rows=rows, channels=channels):
            return 2 * rows * sum(channels)
        case ActivationWorkload(shape=shape) | NormWorkload(shape=shape):
            return 2 * math.prod(shape)
        case CopyWorkload(count=count, out_shape=out_shape):
            return math.prod(count) + math.prod(out_shape)
        case AttentionWorkload(batch=n, heads=h, queries=q, keys=k):
            return n * h * ((q + k) * workload.features + (q + k) * workload.value_features)
    raise UnsupportedModelError(
        f"no simulator here prices {workload.key}; measure it instead: --latency-source measured"
    )
