"""Activations of one bit, with either value as zero point: every family takes them, exact at the ends of the range."""

from __future__ import annotations

import numpy as np
import pytest

from mpq_testing.low_bit import check
from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.schema import Conv2dWorkload, Precision
from tvm_mpq.targets import features, local_row

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
HOST_FEATURES = features(local_row())
WORKLOADS = {
    "dense": C(1, 5, 6, 20, 40, (3, 3), (1, 1), SAME, residual=True),
    "depthwise": C(1, 5, 6, 24, 24, (3, 3), (1, 1), SAME, groups=24),
    "grouped": C(1, 5, 6, 24, 24, (3, 3), (1, 1), SAME, groups=2),
    "linear": C(1, 1, 1, 64, 48, (1, 1)),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_family_of_this_machine(name: str, rng: np.random.Generator) -> None:
    used: set[str] = set()
    for weight_bits in (8, 4, 2, 1):  # the greatest weights that a family takes
        request = Request(WORKLOADS[name], Precision(weight_bits, 1), 8, HOST_FEATURES)
        for family in fitting(request):
            if family.name not in used:
                used.add(family.name)
                check(Kernel(request, family, family.knob_space(request)[0]), rng, (None, 1, -1))
    assert "qu8_qs8_s32_conv2d__generic" in used or name not in ("dense", "linear")
    assert used


@pytest.mark.parametrize("w", WORKLOADS.values(), ids=WORKLOADS)
@pytest.mark.parametrize("weight_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("out_bits", [8, 32])
def test_there_is_a_kernel_on_every_target(w: C, weight_bits: int, out_bits: int) -> None:
    assert fitting(Request(w, Precision(weight_bits, 1), out_bits, frozenset()))
