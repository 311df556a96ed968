"""Pooling equals numerics.reference, compiled for AVX2 and for this CPU."""

from __future__ import annotations

import numpy as np
import pytest

from mpq_testing.weightless import NO_RANGES, batch, bytes_of, floats_of, quant
from tvm_mpq.kernels import Request, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, Pool2dWorkload, Precision

POOLS = [
    Pool2dWorkload("max", 1, 9, 9, 7, (3, 3), (2, 2), (1, 1, 1, 1), 5, 5),
    Pool2dWorkload("max", 2, 7, 5, 33, (3, 2), (2, 1), (0, 0, 0, 0), 3, 4),
    Pool2dWorkload("max", 1, 8, 7, 17, (3, 3), (2, 2), (0, 0, 0, 0), 4, 3),  # ceil_mode: past the bottom
    Pool2dWorkload("max", 1, 6, 6, 3, (5, 5), (1, 1), (2, 2, 2, 2), 6, 6),  # window loop
    Pool2dWorkload("max", 1, 5, 6, 64, (2, 2), (2, 2), (0, 0, 0, 0), 2, 3),
    Pool2dWorkload("max", 1, 4, 4, 1, (1, 1), (3, 3), (0, 0, 0, 0), 2, 2),
]


AVERAGES = [
    (1, 7, 7, 33, (7, 7), (1, 1), (0, 0, 0, 0), 1, 1),  # global
    (2, 5, 6, 3, (5, 6), (1, 1), (0, 0, 0, 0), 1, 1),
    (1, 9, 9, 7, (3, 3), (2, 2), (1, 1, 1, 1), 5, 5),
    (1, 8, 7, 17, (3, 3), (2, 2), (1, 0, 0, 1), 5, 4),  # ceil_mode past the declared padding
    (1, 6, 6, 64, (2, 3), (2, 3), (0, 0, 0, 0), 3, 2),
    (1, 4, 5, 1, (2, 2), (1, 2), (1, 1, 1, 1), 5, 3),
    (1, 17, 16, 16, (17, 16), (1, 1), (0, 0, 0, 0), 1, 1),  # more cells than a uint16 sum holds
]


def test_max_pool(rng):
    tq = quant(8, 0.1, 77)
    with batch() as check:
        for work in POOLS:
            shape = (work.batch, work.in_height, work.in_width, work.channels)
            check(work, Precision(8, 8), 8, Operands((tq,), tq), [bytes_of(rng, shape)])
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, shape)])
            check(work, FP32, 32, NO_RANGES, [-np.abs(floats_of(rng, shape))])  # padding must not win


@pytest.mark.parametrize("mode", ["avg", "avg_valid"])
def test_average_pool(rng, mode):
    with batch() as check:
        for fields in AVERAGES if mode == "avg" else AVERAGES[2:6]:
            work, shape = Pool2dWorkload(mode, *fields), fields[:4]
            for output in (quant(8, 0.1, 77), quant(8, 0.043, 10)):
                check(work, Precision(8, 8), 8, Operands((quant(8, 0.1, 77),), output), [bytes_of(rng, shape)])
            full = np.full(shape, 255, np.uint8)
            check(work, Precision(8, 8), 8, Operands((quant(8, 0.1, 0),), quant(8, 0.1, 0)), [full])
            # a float sum of n cells may lose n units in the last place of the sum of absolute values
            cells = work.kernel[0] * work.kernel[1]
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, shape)], rtol=1e-6, atol=cells * 6e-8 * 3)


def test_max_pool_of_an_empty_window_is_not_offered():
    work = Pool2dWorkload("max", 1, 4, 4, 16, (2, 2), (4, 4), (0, 0, 4, 4), 2, 2)
    assert not fitting(Request(work, Precision(8, 8), 8, frozenset()))
