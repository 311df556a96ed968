"""Unsigned activations for instructions of signed bytes: they are taken less c, half their range.

The bias holds the difference: sum (x - c) * w = sum x * w - c * sum w. |x - c| is as small as it can be, so that the
most products fit 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.packing.dense import with_ranges
from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics.constants import ConvConstants


def centre(activation_bits: int) -> int:
    """c: x - c fits a signed byte, and |x - c| <= c.

    >>> centre(8), centre(4)
    (128, 8)
    """
    return 1 << (activation_bits - 1)


def centred_ranges(request: Request, numbers: ConvConstants, weight: npt.NDArray[Any]) -> list[np.ndarray]:
    """The constants of `with_ranges` for a kernel that takes c from every activation."""
    return with_ranges(request, numbers, weight, centre(request.precision.activation_bits))
