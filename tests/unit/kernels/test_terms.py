"""No accumulator wraps: each row says how many terms it holds, is exact up to there, and refuses one more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpq_testing.low_bit import compiled
from tvm_mpq.kernels import Family, Kernel, Request, families
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.conv import BIAS_LIMIT
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import Conv2dWorkload, Pool2dWorkload, Precision, TensorQuant

INT32 = 2**31 - 1
AVX2 = frozenset({"avx2"})
VNNI = AVX2 | {"avx512f", "avx512bw", "avx512vnni"}
MCPU = {frozenset(): None, AVX2: "haswell", VNNI: "cascadelake"}
RUNNABLE = [
    *((frozenset(), "qu8_qs8_s32_conv2d__generic", "w8a8"),),
    *((AVX2, name, p) for name, p in (("qu8_qs8_s32_conv2d__avx2", "w8a8"), ("qu8_qs8_s16_conv2d__avx2", "w8a7"))),
    *((AVX2, "qu8_qs2_s32_lutconv2d__avx2", p) for p in ("w2a4", "w2a5")),
    *((AVX2, f"qu8_qc{bits}u_s16_linear__avx2", f"w{bits}a8") for bits in (1, 4)),
    *((VNNI, "qu8_qs8_s32_conv2d__avx512vnni", p) for p in ("w8a8", "w8a6")),
    *((VNNI, "qu8_qc4s_s32_conv2d__avx512vnni", p) for p in ("w4a8", "w3a8")),
    *((VNNI, f"qu8_qc{bits}u_s32_linear__avx512vnni", f"w{bits}a8") for bits in (1, 2, 4)),
]
"""Features, row and precision of sums that are short enough to be computed here."""
NEEDED = {frozenset(): (), AVX2: ("avx2", "fma"), VNNI: ("avx512vnni",)}


def row_named(name: str) -> Family:
    (row,) = (f for f in families() if f.name == name)
    return row


def linear(terms: int) -> Conv2dWorkload:
    return Conv2dWorkload(1, 1, 1, terms, 1, (1, 1))


def integer_rows() -> list[tuple[Family, Precision]]:
    return [
        (row, Precision(weights, activations))
        for row in families()
        if row.workload_type is Conv2dWorkload and max(row.weight_bits) <= 8
        for weights, activations in itertools.product(sorted(row.weight_bits), sorted(row.activation_bits))
    ]


def most(row: Family, precision: Precision) -> int:
    terms = row.max_terms(Request(linear(8), precision, 32, row.isa_features))
    assert terms is not None
    return terms


def greatest_sum(precision: Precision, terms: int) -> int:
    return BIAS_LIMIT + terms * (2**precision.activation_bits - 1) * weight_range(precision.weight_bits)[1]


def test_every_integer_row_says_what_int32_holds() -> None:
    tight = set()
    for row, precision in integer_rows():
        terms = most(row, precision)
        assert greatest_sum(precision, terms) <= INT32, (row.name, precision)
        if greatest_sum(precision, terms + 1) > INT32:
            tight.add((row.name, str(precision)))
        for workload, holds in ((linear(terms), True), (linear(terms + 1), False)):
            assert row.holds(Request(workload, precision, 32, row.isa_features)) is holds, (row.name, precision)
    assert len(tight) > 0.75 * len(integer_rows())  # the others count in 16 bits, or shift their sums
    shifted = {"qu8_qs8_s32_winograd__avx2"}
    assert {name for name, precision in tight if precision == "w8a8"} == {
        row.name for row, precision in integer_rows() if str(precision) == "w8a8"
    } - shifted


def test_kernel_positions_and_groups_count() -> None:
    """3 x 3 of 8,192 channels are 73,728 products; 4 groups of as many are no more."""
    for groups, kernel, fits in ((1, 3, False), (1, 1, True), (4, 3, False), (4, 1, True)):
        w = Conv2dWorkload(1, 4, 4, 8192 * groups, 4 * groups, (kernel, kernel), groups=groups)
        assert w.terms == 8192 * kernel * kernel
        for name in ("conv2d", "gconv2d"):
            row = row_named(f"qu8_qs8_s32_{name}__generic")
            wanted = fits and (groups > 1) == (name == "gconv2d")
            assert row.fits(Request(w, Precision(8, 8), 8, frozenset())) is wanted


def test_an_average_says_so_too() -> None:
    row = row_named("qu8_pool2d__generic")

    def fits(mode: str, columns: int) -> bool:
        size = (1, 1, columns, 8, (1, columns), (1, 1), (0, 0, 0, 0), 1, 1)
        return row.fits(Request(Pool2dWorkload(mode, *size), Precision(8, 8), 8, frozenset()))

    longest = INT32 // 255
    assert fits("avg", longest) and not fits("avg", longest + 1) and fits("max", longest + 1)


@pytest.mark.parametrize(
    "features, name, text",
    [pytest.param(*case, marks=pytest.mark.isa(*NEEDED[case[0]]), id=f"{case[1]}-{case[2]}") for case in RUNNABLE],
)
def test_the_longest_sums_are_exact(features: frozenset[str], name: str, text: str) -> None:
    """All products and the bias at the ends of their ranges, with one sign and with two."""
    row, precision = row_named(name), Precision.parse(text)
    w = linear(most(row, precision))
    request = Request(w, precision, 32, features)
    assert row.fits(request)
    run = compiled(Kernel(request, row, row.knob_space(request)[0]), MCPU[features])
    top, weight = 2**precision.activation_bits - 1, weight_range(precision.weight_bits)[1]
    for sign, (x, zero_point), bias in itertools.product((1, -1), ((top, 0), (0, top)), (BIAS_LIMIT, -BIAS_LIMIT)):
        quant = TensorQuant(precision.activation_bits, 1.0, zero_point)
        weights = np.full((1, 1, 1, w.in_channels), sign * weight, np.float32)
        operands = Operands((quant,), None, weights, np.full(1, bias, np.float32))
        data = np.full((1, 1, 1, w.in_channels), x, np.uint8)
        total = bias + sign * weight * (x - zero_point) * w.in_channels
        np.testing.assert_array_equal(
            evaluate(w, precision, 32, operands, [data]), np.full((1, 1, 1, 1), total, np.float32)
        )
        np.testing.assert_array_equal(run(operands, [data]), np.full((1, 1, 1, 1), total, np.float32))
