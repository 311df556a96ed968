"""How weights of one to three bits become bits that select activations, and the bounds that keep their sums exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.frames.geometry import BLOCK
from tvm_mpq.kernels.registry import Request

GROUP = 4
"""Activations of one table."""
TABLE_BYTES = 16
_MOST_SUMS = 4


@dataclass(frozen=True)
class NibbleCoding:
    """A weight is factor * u - offset, and u a number of a few bits, or of two bits that are worth the same.

    So the sum of products is factor * (sum of what the bits look up) - offset * (sum of the activations). `planes` bits
    of ascending worth 1, 2, 4 have vectors of their own; `beside` bits of equal worth are neighbours in one.
    """

    planes: int
    beside: int
    factor: int
    offset: int

    @property
    def part_channels(self) -> int:
        """Output channels of one vector: 16 bytes hold each channel's bits of one plane and table."""
        return BLOCK // self.beside

    def bits(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
        """int8[...] -> bool[..., planes, beside]. A weight of one bit that is 0 counts as negative."""
        u = ((weight + self.offset) // self.factor)[..., None, None]
        bits = u > np.arange(self.beside) if self.beside > 1 else u >> np.arange(self.planes)[:, None] & 1
        return np.asarray(bits, np.bool_)

    def lookups_limit(self, activation_bits: int) -> int:
        """How many tables one 16 bit counter may take: each adds an entry for every bit beside another.

        >>> CODINGS[2].lookups_limit(5), CODINGS[1].lookups_limit(4), CODINGS[3].lookups_limit(4)
        (264, 1092, 1092)
        """
        return 65535 // (self.beside * greatest(activation_bits))


CODINGS = {
    1: NibbleCoding(planes=1, beside=1, factor=2, offset=1),  # -1 and 1
    2: NibbleCoding(planes=1, beside=2, factor=1, offset=1),  # -1, 0 and 1: no bit, one and two
    3: NibbleCoding(planes=3, beside=1, factor=1, offset=3),  # -3..3
}


def coding_of(request: Request) -> NibbleCoding:
    """The coding of the request's weights."""
    return CODINGS[request.precision.weight_bits]


def greatest(activation_bits: int) -> int:
    """The greatest entry of a table.

    >>> greatest(4)
    60
    """
    return GROUP * ((1 << activation_bits) - 1)


def sums_limit(activation_bits: int) -> int:
    """How many looked-up bytes may be added before they overflow, an even number; 0 when not even two fit.

    >>> [sums_limit(b) for b in (2, 3, 4, 5, 6)]
    [4, 4, 4, 2, 0]
    """
    return min(_MOST_SUMS, 255 // greatest(activation_bits)) // 2 * 2
