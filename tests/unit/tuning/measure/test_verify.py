"""A kernel that computes something else than the definition is refused before it is timed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tvm_mpq import targets
from tvm_mpq.errors import VerificationError
from tvm_mpq.kernels import default_kernel
from tvm_mpq.kernels.registry import Kernel, Request
from tvm_mpq.schema import FP32, W8A8, AddWorkload, ConcatWorkload, Conv2dWorkload, ConvertWorkload, Pool2dWorkload
from tvm_mpq.tuning.compile.build import build_modules
from tvm_mpq.tuning.devices.local_session import LocalSession
from tvm_mpq.tuning.measure.verify import compare, verify_kernel

FEATURES = targets.features(targets.resolve("local"))
CONV = Conv2dWorkload(1, 5, 7, 3, 10, (3, 3), padding=(1, 1, 1, 1), residual=True, activation="relu")

REQUESTS = [
    Request(CONV, W8A8, 8, FEATURES),
    Request(CONV, W8A8, 32, FEATURES),
    Request(CONV, FP32, 32, FEATURES),
    Request(dataclasses.replace(CONV, activation="hard_swish"), W8A8, 8, FEATURES),
    Request(AddWorkload((1, 4, 4, 5)), W8A8, 8, FEATURES),
    Request(ConcatWorkload(6, (3, 20)), W8A8, 8, FEATURES),
    Request(Pool2dWorkload("max", 1, 6, 6, 17, (2, 2), (2, 2), (0, 0, 0, 0), 3, 3), W8A8, 8, FEATURES),
    Request(ConvertWorkload((1, 4, 4, 3), 32, 8, channels_first=True), W8A8, 8, FEATURES),
]


@pytest.fixture(scope="module")
def session():
    with LocalSession() as opened:
        yield opened


def library(kernel: Kernel, folder) -> Path:
    func = kernel.build().with_attr("global_symbol", "k")
    target = targets.to_tvm(targets.resolve("local"), 1)
    (result,) = build_modules([("k", func)], target, workers=1, folder=folder)
    assert result.path is not None, result.failure
    return result.path


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: r.key[:40])
def test_right_kernels_pass(request_, session, tmp_path):
    kernel = default_kernel(request_)
    verify_kernel(session, library(kernel, tmp_path), "k", kernel)


def test_a_kernel_with_other_constants_is_refused(session, tmp_path):
    kernel = default_kernel(REQUESTS[0])

    def wrong_bias(*args: object) -> list[np.ndarray]:
        constants = kernel.family.constants(*args)
        return [c + 1000 if c.dtype == np.int32 and c.size > 8 else c for c in constants]

    class Broken(Kernel):
        def constants(self, operands):
            return wrong_bias(self.request, self.knobs, operands)

    broken = Broken(kernel.request, kernel.family, kernel.knobs)
    with pytest.raises(VerificationError, match="integers wrong"):
        verify_kernel(session, library(kernel, tmp_path), "k", broken)


def test_floats_have_a_tolerance_and_nan_is_none():
    compare(np.float32([1.0, 2.0]), np.float32([1.0, 2.00001]), "x")
    with pytest.raises(VerificationError, match="off by"):
        compare(np.float32([1.0, 2.0]), np.float32([1.0, 2.001]), "x")
    with pytest.raises(VerificationError, match="off by"):
        compare(np.float32([np.nan, 2.0]), np.float32([1.0, 2.0]), "x")
