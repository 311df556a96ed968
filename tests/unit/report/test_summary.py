from __future__ import annotations

import math
from typing import Any

import pytest

from tvm_mpq.report import summary

Report = dict[str, Any]


def test_rows(report: Report) -> None:
    rows = {r.key: r for r in summary.network_rows(report)}
    assert list(rows) == ["fp32", "int8", "mixed"]
    mixed = rows["mixed"]
    assert mixed.accuracy == "98.10 % (529/539)"
    assert mixed.measured == "0.200 (IQR 0.00300)"
    assert mixed.predicted == "0.210 (+5.0 %)"
    assert (mixed.size, mixed.weights, mixed.speedup) == ("450 kB", "280 kB", "1.25x")
    assert rows["fp32"].speedup == "0.31x"


def test_relative_error_has_no_hits(report: Report) -> None:
    report["accuracy"] = {"metric": "relative_error", "mixed": 0.5, "hits": {"mixed": 0}, "samples": 3}
    assert summary.accuracy(report, "mixed") == "0.500 %"
    assert summary.accuracy(report, "fp32") == "-"


@pytest.mark.parametrize(
    ("budget", "met"),
    [
        ({"size_mb": 0.3}, [True]),
        ({"size_mb": 0.27}, [False]),
        ({"latency_ratio": 0.8, "latency_ms": 0.19}, [True, False]),
        ({"max_drop": 0.5}, [True]),
        ({"max_drop": 0.3}, [False]),
        ({"max_drop": None}, []),
        ({}, []),
        (None, []),
    ],
)
def test_limits(report: Report, budget: Report | None, met: list[bool]) -> None:
    report["budget"] = budget
    assert [limit.met for limit in summary.limits(report)] == met


def test_a_larger_relative_error_is_a_drop(report: Report) -> None:
    report["accuracy"] = {"metric": "relative_error", "fp32": 0.0, "mixed": 2.0}
    report["budget"] = {"max_drop": 1.0}
    del report["judgement"]  # as in reports of an older version
    assert [limit.met for limit in summary.limits(report)] == [False]


def test_a_limit_that_cannot_be_checked_is_not_called_met(report: Report) -> None:
    report["budget"] = {"latency_ratio": 0.5}
    del report["latency_ms"]["int8"]
    assert [limit.met for limit in summary.limits(report)] == [None]


def test_no_cautions_where_none_are_due(report: Report) -> None:
    assert summary.cautions(report) == []


def test_cautions(report: Report) -> None:
    report["calibration"]["synthetic"] = True
    report["accuracy"] |= {"on_calibration_data": True, "metric": "agreement"}
    report["predicted_ms"]["mixed"] = 0.1
    report["solver"]["status"] = "time_limit"
    words = "\n".join(summary.cautions(report))
    for part in ("synthetic", "by which the plan was chosen too", "No labels", "-50.0 %", "ran out of time"):
        assert part in words


def test_mixed_is_faster(report: Report) -> None:
    answer = summary.mixed_answer(report)
    assert answer.startswith("Yes: 1.25x as fast, 0.200 ms against 0.250 ms.")
    assert "3 operators do not run at 8 bit; by the table that costs 32 us" in answer  # twice 14 - 12, once 40 - 12
    assert "Of 4 operators that can go below 8 bit, 0 are faster there" in answer
    assert "70.0 %" in answer


def test_mixed_is_slower(report: Report) -> None:
    report["latency_ms"]["mixed"] = 0.5
    assert summary.mixed_answer(report).startswith("No: 0.50x as fast")


def test_mixed_is_the_same_within_noise(report: Report) -> None:
    report["latency_ms"]["mixed"] = 0.251
    assert summary.mixed_answer(report).startswith("No difference to speak of")


def test_uniform_8_bit_wins(report: Report) -> None:
    report["plan"] = dict.fromkeys(report["plan"], "w8a8")
    assert summary.mixed_answer(report).startswith("The plan chosen is 8 bit everywhere")


def test_operators_faster_in_fp32_are_named(report: Report) -> None:
    assert "Every operator" in summary.int8_answer(report)
    report["operators"][0]["candidates"]["w8a8"]["latency_us"] = {8: 50.0}
    assert summary.int8_answer(report).endswith("Faster in fp32 taken alone: stem.")


def test_candidate_time_ignores_what_cannot_be_emitted() -> None:
    assert summary.time_of({"latency_us": {"8": math.inf, "32": 3.0}}) == 3.0
    assert summary.time_of({"latency_us": {}}) is None


def test_labels_by_falling_bits(report: Report) -> None:
    report["operators"][0]["candidates"]["w2a4"] = {"latency_us": {}}
    assert summary.labels(report) == ["fp32", "w8a8", "w4a8", "w2a4"]


def test_an_empty_report_says_little_and_does_not_fail() -> None:
    assert summary.network_rows({}) == []
    assert summary.cautions({}) == []
    assert [a for _, a in summary.answers({})][1:] == ["Not measured.", "Not measured."]
