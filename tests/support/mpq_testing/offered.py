"""Which few bits this CPU has code for, so that no test names a precision that only some CPUs offer."""

from __future__ import annotations

from collections.abc import Iterable

from tvm_mpq.kernels import OFFERED, candidate_precisions
from tvm_mpq.schema import Conv2dWorkload, Precision
from tvm_mpq.targets import features, local_row

LAYER = Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), (1, 1), (1, 1, 1, 1))
"""An ordinary convolution: what few bits serve at all, they serve here."""


def few_bits(offered: Iterable[Precision] = OFFERED) -> list[str]:
    """Of what is offered, the integer precisions below w8a8 that this CPU has code of its own for."""
    found = candidate_precisions(LAYER, features(local_row()), 1, offered)
    return [str(p) for p in found if not p.is_float and p.weight_bits < 8]


def some_bits() -> list[str]:
    """At most three of `few_bits`, or w8a8, for jobs that are to choose among precisions.

    Every further one is a kernel more for each layer to be compiled, and proves the same.
    """
    few = few_bits()
    return list(dict.fromkeys([*few[:1], *few[len(few) // 2 :][:1], *few[-1:]])) or ["w8a8"]
