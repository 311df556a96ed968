from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.report import condition
from tvm_mpq.report.html import render
from tvm_mpq.report.tables import show_optimize

Report = dict[str, Any]

SILENT: dict[str, Any] = {
    "load": None, "governor": None, "clock_mhz": None, "top_clock_mhz": None, "temperature_c": None, "throttled": None,
    "throttle_count": None, "free_memory_bytes": None, "warnings": [],
}  # fmt: skip


@pytest.fixture
def here(report: Report) -> Report:
    """As of a run on this machine."""
    start = {**SILENT, "load": 0.25, "governor": "performance", "clock_mhz": 1500.0, "top_clock_mhz": 1800.0}
    end = {**start, "load": 1.5, "temperature_c": 61.5, "throttle_count": 3, "free_memory_bytes": 2_500_000_000}
    return report | {"health": {"start": start, "end": end}, "boards": None}


@pytest.fixture
def far(here: Report) -> Report:
    """As of a run on boards, one of which was lost."""
    lost = [
        {"board": "k at h:1", "reason": "no answer", "came_back": False},
        {"board": "k at h:2", "reason": "it closed", "came_back": True},
    ]
    return here | {"boards": {"used": ["k at h:2", "k at h:3"], "lost": lost, "emulated": False}}


def test_rows_hold_what_was_told(here: Report) -> None:
    assert condition.rows(here) == [
        ("load", "0.250", "1.50"),
        ("governor", "performance", "performance"),
        ("clock", "1500 of 1800 MHz", "1500 of 1800 MHz"),
        ("temperature", "-", "61.5 C"),
        ("throttling", "-", "3 times since it was started"),
        ("free memory", "-", "2500 MB"),
    ]


@pytest.mark.parametrize("health", [None, {}, {"start": SILENT, "end": SILENT}])
def test_a_device_that_tells_nothing(report: Report, health: Any) -> None:
    report |= {"health": health}
    assert condition.rows(report) == [] and condition.cautions(report) == []
    assert not any(value for _, value in condition.facts(report))
    assert "It tells nothing of load" in render(report)


def test_the_page_and_the_terminal_show_it(far: Report, capsys: pytest.CaptureFixture[str]) -> None:
    page = render(far)
    show_optimize(far)
    words = capsys.readouterr().out
    for part in ("k at h:1 was lost (no answer); it did not come back, others did its work", "k at h:3", "performance"):
        assert part in page and part in words
    assert "<tr><td>load</td><td>0.250</td><td>1.50</td></tr>" in page
    assert "load 0.250, governor performance, clock 1500 of 1800 MHz" in words


def test_names_of_boards_are_escaped(far: Report) -> None:
    evil = "<script>x</script>"
    far["boards"] = {"used": [evil], "lost": [{"board": evil, "reason": evil, "came_back": False}]}
    far["health"]["start"]["governor"] = evil
    assert "<script" not in render(far)


def test_what_makes_times_doubtful(here: Report, far: Report) -> None:
    assert condition.cautions(here) == []
    assert condition.cautions(far) == [
        "Board k at h:1 was lost (no answer); it did not come back, others did its work.",
        "Board k at h:2 was lost (it closed); it came back.",
    ]
    here["boards"] = {"used": ["b"], "lost": [], "emulated": True}
    here["health"]["start"]["warnings"] = ["load 3.0 on 2 cores", "governor powersave"]
    here["health"]["end"] |= {"throttled": "too hot", "warnings": ["load 2.0 on 2 cores", "too hot"]}
    assert condition.cautions(here) == [
        "The board is emulated: its integers are right, its times mean nothing.",
        "Before the work the device had load 3.0 on 2 cores, governor powersave: times may be off.",
        "After the work the device was too hot: times may be off.",
    ]


@pytest.mark.parametrize(
    ("now", "count", "text"),
    [("", None, "none now"), ("throttled", None, "throttled"), ("", 0, "none now, 0 times since it was started")],
)
def test_throttling(here: Report, now: str, count: int | None, text: str) -> None:
    here["health"]["end"] |= {"throttled": now, "throttle_count": count}
    assert ("throttling", "-", text) in condition.rows(here)
