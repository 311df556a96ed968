"""Outputs of fewer than 8 bits: a request names them 8, so every convolution clamps to what its constants say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from mpq_testing.low_bit import compiled, make_operands
from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import Conv2dWorkload, Precision, TensorQuant
from tvm_mpq.targets import features, local_row

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
HOST_FEATURES = features(local_row())

WORKLOADS = {
    "dense": C(1, 5, 6, 20, 40, (3, 3), (1, 1), SAME),
    "residual": C(1, 4, 4, 20, 32, (1, 1), residual=True, activation="relu"),
    "depthwise": C(1, 5, 6, 24, 24, (3, 3), (1, 1), SAME, groups=24),
    "grouped": C(1, 5, 6, 24, 24, (3, 3), (1, 1), SAME, groups=2, activation="relu"),
    "linear": C(1, 1, 1, 64, 48, (1, 1)),
}
PRECISIONS = [Precision.parse(p) for p in ("w8a8", "w4a8", "w2a4", "w1a4", "w1a1")]
OUTPUTS = [TensorQuant(4, 0.0625, 5), TensorQuant(1, 0.125, 0), TensorQuant(1, 0.125, 1)]
"""So fine that sums leave the range on both sides."""


def every_family(w: Conv2dWorkload) -> Iterator[Kernel]:
    """One kernel of each family that this machine runs."""
    used: set[str] = set()
    for precision in PRECISIONS:
        request = Request(w, precision, 8, HOST_FEATURES)
        for family in fitting(request):
            if family.name not in used:
                used.add(family.name)
                yield Kernel(request, family, family.knob_space(request)[0])
    assert used


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_family_clamps_to_the_ends_of_the_output(name: str, rng: np.random.Generator) -> None:
    w = WORKLOADS[name]
    relu = w.activation == "relu"
    for kernel in every_family(w):
        run, precision = compiled(kernel), kernel.request.precision
        top = 2**precision.activation_bits - 1
        inputs = [rng.integers(0, top + 1, (w.batch, w.in_height, w.in_width, w.in_channels)).astype(np.uint8)]
        if w.residual:
            inputs.append(rng.integers(0, 256, (w.batch, w.out_height, w.out_width, w.out_channels)).astype(np.uint8))
        drawn = make_operands(w, precision.activation_bits, 8, rng, None)
        for output in OUTPUTS:
            operands = dataclasses.replace(drawn, output=output)
            expected = evaluate(w, precision, 8, operands, inputs)
            assert (expected.min(), expected.max()) == (output.zero_point if relu else 0, 2**output.bits - 1)
            np.testing.assert_array_equal(run(operands, inputs), expected, err_msg=kernel.family.name)
