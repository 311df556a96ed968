"""The order of the kernel table: each row has one place, and the first that serves a request is its default."""

from __future__ import annotations

from collections import Counter

import pytest

from tvm_mpq.kernels import Request, default_kernel, families, fitting
from tvm_mpq.kernels.order import ORDER
from tvm_mpq.schema import FLOAT_BITS, AddWorkload, Conv2dWorkload, Precision
from tvm_mpq.targets import features, resolve

CONV = Conv2dWorkload(1, 14, 14, 32, 32, (3, 3), padding=(1, 1, 1, 1))


def test_every_row_has_one_place_and_nothing_else_has() -> None:
    assert Counter(ORDER) == Counter(family.name for family in families())


@pytest.mark.parametrize(
    ("precision", "target", "names"),
    [
        (
            "w1a2",
            "znver4",
            [
                "qu8_qs1_s32_lutconv2d__avx512vbmi",
                "qu8_qc4s_s32_conv2d__avx512vnni",
                "qu8_qc4s_s8_conv2d__avx512vnni",
                "qu8_qs8_s32_conv2d__avx512vnni",
                "qu8_qs1_s32_lutconv2d__avx2",
                "qu8_qs8_s16_conv2d__avx2",
                "qu8_qs8_s32_conv2d__avx2",
                "qu8_qs8_s32_conv2d__generic",
            ],
        ),
        (
            "w7a8",
            "alderlake",
            [
                "qu8_qs8_s32_conv2d__avxvnni",
                "qu8_qs8_s16_conv2d__avx2",
                "qu8_qs8_s32_conv2d__avx2",
                "qu8_qs8_s32_conv2d__generic",
            ],
        ),
        (
            "w2a4",
            "alderlake",
            [
                "qu8_qs2_s32_lutconv2d__avx2",
                "qu8_qs8_s32_conv2d__avxvnni",
                "qu8_qs8_s16_conv2d__avx2",
                "qu8_qs8_s32_conv2d__avx2",
                "qu8_qs8_s32_conv2d__generic",
            ],
        ),
        (
            "w3a4",
            "cortex-a76",
            [
                "qu8_qs8_s32_conv2d__dotprod",
                "qu8_qs3_s32_lutconv2d__neon",
                "qu8_qs8_s16_conv2d__neon",
                "qu8_qs8_s32_conv2d__neon",
                "qu8_qs8_s32_conv2d__generic",
            ],
        ),
    ],
)
def test_rows_of_a_request_come_in_the_order_of_the_table(precision: str, target: str, names: list[str]) -> None:
    request = Request(CONV, Precision.parse(precision), 8, features(resolve(target)))
    assert [family.name for family in fitting(request)] == names
    assert default_kernel(request).family.name == names[0]


@pytest.mark.parametrize("workload", [CONV, AddWorkload((1, 8, 8, 64), "silu")], ids=lambda w: w.kind)
@pytest.mark.parametrize("precision", ["w8a8", "w1a1", "fp32", "bf16"])
def test_what_needs_no_isa_feature_comes_last(workload: Conv2dWorkload | AddWorkload, precision: str) -> None:
    bits = Precision.parse(precision)
    request = Request(workload, bits, FLOAT_BITS if bits.is_float else 8, features(resolve("znver4")))
    portable = [not family.isa_features for family in fitting(request)]
    assert portable == sorted(portable)
