from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_mpq.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (7, "7"),
        (1000, "1000"),
        (0.5, "0.500"),
        (0.00123, "0.00123"),
        (12.345, "12.3"),
        (123.45, "123"),
        (-0.25, "-0.250"),
        (1e-5, "1.00e-05"),
        (1.5e7, "1.50e+07"),
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
        ("x", "-"),
    ],
)
def test_number(value: object, shown: str) -> None:
    assert text.number(value) == shown


@given(st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf]))
def test_number_keeps_three_digits(value: float) -> None:
    shown = text.number(value)
    if math.isfinite(value):
        assert float(shown) == pytest.approx(value, rel=0.0051)
    else:
        assert shown == "-"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_999, "1000 kB"), (2.5e6, "2.50 MB"), (None, "-")],
)
def test_size(value: object, shown: str) -> None:
    assert text.size(value) == shown


def test_ratio_of_what_cannot_be_divided() -> None:
    assert text.ratio(1.0, 0.0) is None
    assert text.ratio(None, 1.0) is None
    assert text.ratio(1.0, math.inf) is None
    assert text.ratio(3.0, 2.0) == 1.5


LINEAR = (
    "conv2d(batch=1,in_height=1,in_width=4,in_channels=96,out_channels=10,kernel=1x1,stride=1x1,"
    "padding=0x0x0x0,dilation=1x1,groups=1,residual=False,activation=none)"
)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (LINEAR, "1x1x4x96 -> 10"),
        (LINEAR.replace("kernel=1x1", "kernel=3x3").replace("groups=1", "groups=96"), "1x1x4x96 -> 10, 3x3, groups 96"),
        (LINEAR.replace("stride=1x1", "stride=2x1"), "1x1x4x96 -> 10, 1x1/2x1"),
        (LINEAR.replace("none)", "none,input_dilation=2x1)"), "1x1x4x96 -> 10, 1x1*2x1"),
        ("add(shape=1x8x8x16,activation=relu)", "add(shape=1x8x8x16,activation=relu)"),
        ("conv2d(batch=1)", "conv2d(batch=1)"),
        ("", ""),
    ],
)
def test_workload(key: str, shown: str) -> None:
    assert text.workload(key) == shown


def test_one_line_has_no_control_characters() -> None:
    assert text.one_line("a\n\tb\x1b[31mc") == "a b [31mc"
