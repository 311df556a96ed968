"""Slices and paddings equal numerics.reference, compiled for AVX2 and for this CPU."""

from __future__ import annotations

from mpq_testing.weightless import NO_RANGES, batch, bytes_of, floats_of, quant
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, CopyWorkload, Precision

COPIES = [
    ((1, 4, 4, 3), (1, 2, 2, 6), (0, 0, 0, 0), (1, 2, 2, 1), (1, 2, 2, 3), (0, 0, 0, 2)),  # option A shortcut
    ((1, 8, 8, 16), (1, 4, 4, 32), (0, 0, 0, 0), (1, 2, 2, 1), (1, 4, 4, 16), (0, 0, 0, 8)),
    ((2, 5, 6, 17), (2, 9, 8, 17), (0, 0, 0, 0), (1, 1, 1, 1), (2, 5, 6, 17), (0, 1, 2, 0)),  # zero padding
    ((2, 5, 6, 17), (2, 3, 6, 17), (0, 2, 0, 0), (1, 1, 1, 1), (2, 3, 6, 17), (0, 0, 0, 0)),  # rows
    ((1, 5, 6, 40), (1, 5, 6, 7), (0, 0, 0, 30), (1, 1, 1, 1), (1, 5, 6, 7), (0, 0, 0, 0)),  # channel split
    ((1, 5, 6, 40), (1, 5, 6, 20), (0, 0, 0, 1), (1, 1, 1, 2), (1, 5, 6, 20), (0, 0, 0, 0)),  # strided channels
    ((3, 10), (3, 12), (0, 0), (1, 1), (0, 0), (0, 0)),  # only padding
    ((4, 33), (4, 33), (0, 0), (1, 1), (4, 33), (0, 0)),
    ((2, 3, 33), (1, 2, 35), (1, 0, 0), (1, 2, 1), (1, 2, 33), (0, 0, 1)),
]


def test_copy(rng):
    tq = quant(8, 0.1, 99)
    with batch() as check:
        for fields in COPIES:
            work = CopyWorkload(*fields)
            check(work, Precision(8, 8), 8, Operands((tq,), tq), [bytes_of(rng, fields[0])])
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, fields[0])])
