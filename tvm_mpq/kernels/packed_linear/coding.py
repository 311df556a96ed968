"""How weights of 1, 2 and 4 bits lie in bytes, and what a step of the sum takes.

A weight is w = step * u - offset with an unsigned u. Let activations be x = s + sign; then

    sum w * (x - zero point) = step * sum u * s - offset * sum s + (sign - zero point) * sum w

of which the first term is the work, the second one number for each row, the third a constant of the channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import Conv2dWorkload

SIGN_BIT = 128
"""x - 128 as a signed byte is x with its top bit turned over."""


@dataclass(frozen=True)
class Coding:
    """bits: of a field of a byte; greatest: the greatest u; inputs: input channels in four bytes of an output channel.

    The fields of a byte belong to different output channels.
    """

    bits: int
    step: int
    offset: int
    greatest: int
    inputs: int = 4

    @property
    def fields(self) -> int:
        """Fields of a byte."""
        return 8 // self.bits


_FIELDS = {
    1: Coding(bits=1, step=2, offset=1, greatest=1),  # -1 and 1
    2: Coding(bits=2, step=1, offset=1, greatest=2),  # -1..1
    3: Coding(bits=4, step=1, offset=7, greatest=14),
    4: Coding(bits=4, step=1, offset=7, greatest=14),  # -7..7
}


def field_coding(request: Request) -> Coding:
    """One field for each weight."""
    return _FIELDS[request.precision.weight_bits]


def is_exact(workload: Conv2dWorkload) -> bool:
    """Whether the products of whole bytes (all fields, none shifted back) with signed activations add up in int32.

    A sum of one field in its place, of all fields together, of unsigned activations, and of |offset * s| are each at
    most 255 * 128 * channels.
    """
    return 255 * SIGN_BIT * workload.in_channels < 2**31
