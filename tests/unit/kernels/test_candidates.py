"""Candidate precisions: code of their own, more bits first, and what users choose among."""

from __future__ import annotations

import itertools

import pytest
import tvm_ffi

from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.kernels import (
    ALWAYS,
    OFFERED,
    Family,
    Request,
    candidacy,
    candidate_precisions,
    default_kernel,
    families,
    fitting,
)
from tvm_mpq.schema import BF16, FLOAT_BITS, Conv2dWorkload, DType, LeftOutReason, Precision
from tvm_mpq.targets import features, resolve
from tvm_mpq.targets.rows import ROWS

SAME = (1, 1, 1, 1)
WORKLOADS = {
    "conv": Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), (1, 1), SAME),
    "pointwise": Conv2dWorkload(1, 7, 7, 64, 48, (1, 1)),
    "linear": Conv2dWorkload(1, 1, 1, 256, 64, (1, 1)),
    "depthwise": Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), (1, 1), SAME, groups=32),
}


def offered(workload: Conv2dWorkload, target: str, *texts: str) -> list[str]:
    chosen = {"offered": map(Precision.parse, texts)} if texts else {}
    return list(map(str, candidate_precisions(workload, features(resolve(target)), **chosen)))


@pytest.mark.parametrize("target", ["haswell", "znver4", "cortex-a72", "cortex-a76", "rv64gc"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_candidate_is_code_of_its_own(name: str, target: str) -> None:
    found = candidate_precisions(WORKLOADS[name], features(resolve(target)))
    assert set(ALWAYS) <= set(found) <= set(OFFERED) and found == sorted(found, reverse=True)
    requests = [
        Request(WORKLOADS[name], p, FLOAT_BITS if p.is_float else 8, features(resolve(target)), 1) for p in found
    ]
    for a, b in itertools.combinations(requests, 2):
        kernels = default_kernel(a), default_kernel(b)
        if kernels[0].family == kernels[1].family:
            bodies = [kernel.build() for kernel in kernels]
            assert not tvm_ffi.structural_equal(*bodies), f"{a.precision} and {b.precision} run the same code"


@pytest.mark.parametrize(
    "name, target, integers",
    [
        ("conv", "haswell", ["w8a8", "w1a4"]),  # transformed products are the same for all bits
        ("pointwise", "haswell", ["w8a8", "w7a8", "w6a8", "w5a8", "w4a8", "w1a4"]),  # short: w3a8 and w2a4 as w4a8
        ("conv", "znver4", ["w8a8", "w4a8", "w2a4", "w1a4"]),
        ("depthwise", "znver4", ["w8a8"]),
        ("depthwise", "cortex-a72", ["w8a8"]),
        ("conv", "rv64gc", ["w8a8"]),
    ],
)
def test_fewer_bits_of_the_same_code_are_no_candidates(name: str, target: str, integers: list[str]) -> None:
    assert [text for text in offered(WORKLOADS[name], target) if text.startswith("w")] == integers


def test_why_precisions_are_left_out() -> None:
    conv = candidacy(WORKLOADS["conv"], features(resolve("znver4")), 1, map(Precision.parse, ("w3a8", "w4a8", "fp16")))
    reasons = {
        "fp32": None,
        "fp16": LeftOutReason.NO_KERNEL,
        "w8a8": None,
        "w4a8": None,
        "w3a8": LeftOutReason.SAME_CODE,
    }
    assert {str(p): why for p, why in conv.items()} == reasons and list(conv) == sorted(conv, reverse=True)


def test_what_users_choose_among() -> None:
    assert offered(WORKLOADS["conv"], "znver4", "w2a5", "w4a8") == ["fp32", "w8a8", "w4a8", "w2a5"]
    assert offered(WORKLOADS["conv"], "znver4", "w3a8", "w4a8") == ["fp32", "w8a8", "w4a8"]  # w3a8 is stored as w4a8
    assert offered(WORKLOADS["conv"], "znver4", "w3a8") == ["fp32", "w8a8", "w3a8"]
    assert offered(WORKLOADS["depthwise"], "znver4", "w2a5") == ["fp32", "w8a8"]


def test_the_variant_tells_precisions_of_one_family_apart() -> None:
    for target, few, more in (("haswell", "w7a8", "w6a8"), ("znver4", "w2a5", "w2a4"), ("cortex-a72", "w7a8", "w6a8")):
        rows = []
        for text in (few, more):
            request = Request(WORKLOADS["pointwise"], Precision.parse(text), 8, features(resolve(target)))
            rows.append((fitting(request)[0].name, fitting(request)[0].variant(request)))
        assert rows[0][0] == rows[1][0] and rows[0][1] != rows[1][1]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "w8a8", "w4a8", "w2a4", "w1a1"])
@pytest.mark.parametrize("groups", [1, 4, 32])
def test_no_family_takes_input_dilation_unless_its_row_says_so(groups: int, precision: str) -> None:
    dilated = Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), (1, 1), SAME, groups=groups, input_dilation=(1, 2))
    for target in ("rv64gc", "haswell", "sapphirerapids", "cortex-a76"):
        for out_bits in (FLOAT_BITS, 8):
            request = Request(dilated, Precision.parse(precision), out_bits, features(resolve(target)))
            takers = fitting(request)
            assert all(family.input_dilation for family in takers)


def test_fp16_is_offered_by_arm_cores_that_have_it_and_by_no_x86() -> None:
    fp16 = Precision.parse("fp16")
    assert (str(fp16), fp16.weight_bits, fp16.is_float) == ("fp16", 16, True) and fp16 != BF16
    linear = Conv2dWorkload(1, 1, 1, 64, 40, (1, 1))
    for workload in (WORKLOADS["conv"], WORKLOADS["pointwise"], linear):
        having = {row.name for row in ROWS if fp16 in candidate_precisions(workload, features(row))}
        assert having == {row.name for row in ROWS if "fullfp16" in row.isa_features} and "cortex-a55" in having
    for workload in (WORKLOADS["depthwise"], Conv2dWorkload(1, 8, 8, 16, 7, (3, 3))):
        request = Request(workload, fp16, FLOAT_BITS, features(resolve("cortex-a76")))
        assert fp16 not in candidate_precisions(workload, request.features)
        with pytest.raises(NoKernelError, match="at fp16 emitting 32 bits"):
            default_kernel(request)


@pytest.mark.parametrize("row", families(), ids=lambda row: row.name)
def test_the_bits_of_a_row_are_those_of_its_dtype(row: Family) -> None:
    for bits in row.weight_bits & row.activation_bits:
        Precision(bits, bits, row.dtype)  # raises where they are not


@pytest.mark.parametrize("wrong", [(32, 16, DType.FP32), (32, 32, DType.BF16), (8, 8, DType.FP16)])
def test_a_float_precision_has_the_bits_of_its_format(wrong: tuple[int, int, DType]) -> None:
    with pytest.raises(InvalidValueError, match="bits for weights and activations"):
        Precision(*wrong)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "w8a8", "w4a8", "w2a4", "w1a1"])
@pytest.mark.parametrize("groups", [1, 4, 32])
def test_no_family_cuts_an_input_without_dilation(groups: int, precision: str) -> None:
    cut = Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), padding=(-1, 0, 0, -1), groups=groups)
    for target in ("x86-64", "haswell", "sapphirerapids", "cortex-a53", "cortex-a76"):
        for out_bits in (FLOAT_BITS, 8):
            assert not fitting(Request(cut, Precision.parse(precision), out_bits, features(resolve(target))))
