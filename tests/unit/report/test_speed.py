from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.report import summary
from tvm_mpq.report.speed import SpeedComparison

Report = dict[str, Any]


def measured(report: Report, median: float, low: float, high: float, *, load: bool = False) -> SpeedComparison:
    """The fixture's report (0.25 ms at 8 bit, 0.2 ms mixed, 1.19x expected) with an interval; load: a busy machine."""
    report["speedups"] = {"mixed_to_int8": {"median": median, "low": low, "high": high, "rounds": 15}}
    if load:
        reading = {"warnings": ["load 8.1 on 2 cores"]}
        report["health"] = {"start": reading, "end": reading}
    return SpeedComparison(report, "mixed", "int8")


def test_a_claim_states_its_interval(report: Report) -> None:
    found = measured(report, 1.25, 1.22, 1.27)
    assert found.claim() == "Yes: 1.25x (1.22 to 1.27) as fast, 0.200 ms against 0.250 ms."
    rows = {row.key: row.speedup for row in summary.network_rows(report)}
    assert rows == {"fp32": "0.31x", "int8": "1.00x", "mixed": "1.25x (1.22 to 1.27)"}
    assert measured(report, 0.8, 0.75, 0.85).claim().startswith("No: 0.80x (0.75 to 0.85) as fast")
    assert measured(report, 1.01, 0.99, 1.015).claim().startswith("No difference to speak of: 1.01x (0.99 to 1.01")


def test_a_ratio_is_of_the_same_rounds_whichever_way_it_is_asked(report: Report) -> None:
    """The column says of fp32 beside 8 bit what the claim says of 8 bit beside fp32, whatever the medians are."""
    report["latency_ms"] |= {"fp32": 0.8, "int8": 0.25}  # 3.2x by medians
    report["speedups"] = {"int8_to_fp32": {"median": 2.5, "low": 2.0, "high": 4.0, "rounds": 15}}
    rows = {row.key: row.speedup for row in summary.network_rows(report)}
    assert rows["fp32"] == "0.40x (0.25 to 0.50)"
    assert SpeedComparison(report, "int8", "fp32").text() == "2.50x (2.00 to 4.00)"
    report["speedups"]["int8_to_fp32"]["low"] = 0  # of a damaged report
    assert SpeedComparison(report, "fp32", "int8").text() == "0.31x"


@pytest.mark.parametrize(
    ("interval", "why"),
    [
        ((1.7, 1.2, 2.4), "the rounds put it between 1.20x and 2.40x"),
        ((1.1, 0.97, 1.15), "either may be faster: 0.97x"),
    ],
)
def test_wide_intervals_settle_nothing(report: Report, interval: tuple[float, float, float], why: str) -> None:
    claim = measured(report, *interval).claim()
    assert claim.startswith("Not settled (0.200 ms against 0.250 ms): ") and why in claim
    assert "quiet machine: stop other programs and give the same command again" in claim
    assert summary.mixed_answer(report).startswith("Not settled")


def test_scatter_settles_nothing(report: Report) -> None:
    report["latency_iqr_ms"]["int8"] = 0.06
    claim = measured(report, 1.25, 1.22, 1.27).claim()
    assert "the times of uniform 8 bit scatter by 24.0 %" in claim
    del report["speedups"]
    assert SpeedComparison(report, "mixed", "int8").claim().startswith("Not settled"), "reports of older versions too"


def test_what_the_tables_do_not_expect_is_blamed_on_a_busy_machine_alone(report: Report) -> None:
    assert measured(report, 2.11, 2.05, 2.2).claim().startswith("Yes: 2.11x (2.05 to 2.20)"), "measured on a calm one"
    claim = measured(report, 2.11, 2.05, 2.2, load=True).claim()
    assert "Not settled" in claim and "the tables expect 1.19x; the device had load 8.1 on 2 cores" in claim
    assert measured(report, 1.25, 1.22, 1.27, load=True).claim().startswith("Yes"), "which agrees with the tables"


def test_a_budget_within_the_interval_is_not_settled(report: Report) -> None:
    report["budget"] = {"latency_ratio": 0.8}
    measured(report, 1.25, 1.22, 1.27)
    (limit,) = map(str, summary.limits(report))
    assert limit.endswith("0.800, not settled (0.787 to 0.820): repeat it on a quiet machine")
    report["budget"] = {"latency_ratio": 0.9}
    (limit,) = map(str, summary.limits(report))
    assert limit.endswith(", met")


def test_budget_and_claim_speak_of_the_same_share(report: Report) -> None:
    """Rounds that both networks met, not medians of rounds that each met."""
    report["latency_ms"] |= {"int8": 0.0113, "mixed": 0.00802}  # 0.71 of it
    report["budget"] = {"latency_ratio": 0.70}
    report["speedups"] = {"mixed_to_int8": {"median": 1.46, "low": 1.44, "high": 1.49, "rounds": 15}}
    (limit,) = summary.limits(report)
    assert limit.met and limit.got == "0.685"
