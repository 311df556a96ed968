"""How weights of one and two bits become table indices, and what a table holds for them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tvm_mpq.kernels.registry import Request

TABLE_BYTES = 64
SLOTS = 4
"""Bytes that one vpdpbusd adds to an accumulator: look-ups of one step and output channel."""
_MOST = 4  # looked-up bytes added before they are widened; more win nothing


@dataclass(frozen=True)
class Coding:
    """Tables of `groups` groups of `group` activations: entry [q * 2^group + e] is a sum over group q chosen by e.

    Weights of two bits are two's complement: entries are sums of the activations whose bit is set in e, and the four
    look-ups of a channel are (bit 0, bit 1) of group 0 and of group 1, weighted (1, -2, 1, -2). Weights of one bit are
    -1 and +1: entries are signed sums, those whose bit is not set count negative, one look-up a group.
    """

    weight_bits: int
    group: int
    groups: int
    signed: bool
    together: int  # tables made from one vector of partial sums

    @property
    def channels(self) -> int:
        """Activations of one table."""
        return self.group * self.groups

    @property
    def planes(self) -> int:
        return SLOTS // self.groups

    def sums_limit(self, activation_bits: int) -> int:
        """How many looked-up bytes may be added before they overflow; 0 when not even one fits.

        >>> [CODINGS[2].sums_limit(b) for b in (2, 3, 4, 5, 6)], [CODINGS[1].sums_limit(b) for b in (2, 3, 4, 5, 6)]
        ([4, 4, 3, 1, 0], [4, 4, 2, 1, 0])
        """
        return min(_MOST, (127 if self.signed else 255) // (self.group * ((1 << activation_bits) - 1)))


CODINGS = {
    2: Coding(weight_bits=2, group=5, groups=2, signed=False, together=3),
    1: Coding(weight_bits=1, group=4, groups=4, signed=True, together=2),
}


def coding_of(request: Request) -> Coding:
    """The coding of the request's weights."""
    return CODINGS[request.precision.weight_bits]


def even_parts(count: int, limit: int) -> list[tuple[int, int]]:
    """(start, stop) of the fewest parts of `count` things that hold at most `limit`, as even as can be.

    >>> even_parts(5, 3), even_parts(6, 4), even_parts(2, 4)
    ([(0, 3), (3, 5)], [(0, 3), (3, 6)], [(0, 2)])
    """
    parts = -(-count // limit)
    ends = [-(-count * i // parts) for i in range(parts + 1)]
    return list(itertools.pairwise(ends))
