"""What a report says of the device: how it was before and after the work, which boards served, which were lost."""

from __future__ import annotations

from typing import Literal

from tvm_mpq.report import text
from tvm_mpq.report.contract import BoardUse, Condition, Reading
from tvm_mpq.report.text import NOTHING, is_number, number


def rows(report: Condition) -> list[tuple[str, str, str]]:
    """What the device told of itself: name, before the work, after it; nothing that it told neither time."""
    before, after = _facts(_reading(report, "start")), _facts(_reading(report, "end"))
    found = ((name, before[name], after[name]) for name in before)
    return [row for row in found if row[1:] != (NOTHING, NOTHING)]


def facts(report: Condition) -> list[tuple[str, str]]:
    """The same as name and one line of text; empty where nothing is known."""

    def line(reading: Reading) -> str:
        known = {name: value for name, value in _facts(reading).items() if value != NOTHING}
        return ", ".join(f"{name} {value}" for name, value in known.items())

    return [
        ("device before", line(_reading(report, "start"))),
        ("device after", line(_reading(report, "end"))),
        ("boards", "; ".join(boards_used(report))),
        ("boards lost", "; ".join(boards_lost(report))),
    ]


def boards_used(report: Condition) -> list[str]:
    """Names of the boards that were left at the end; none when the work was done here."""
    return [str(name) for name in _boards(report).get("used", [])]


def boards_lost(report: Condition) -> list[str]:
    """One sentence per board that dropped."""
    return [
        f"{loss.get('board')} was lost ({loss.get('reason')}); "
        + ("it came back" if loss.get("came_back") else "it did not come back, others did its work")
        for loss in _boards(report).get("lost", [])
    ]


def cautions(report: Condition) -> list[str]:
    """What of this a reader must know before believing the numbers."""
    notes = []
    if _boards(report).get("emulated"):
        notes.append("The board is emulated: its integers are right, its times mean nothing.")
    notes += [f"Board {lost}." for lost in boards_lost(report)]
    disturbed = [str(what) for what in _reading(report, "start").get("warnings", [])]
    if disturbed:
        notes.append(f"Before the work the device had {', '.join(disturbed)}: times may be off.")
    # Its load afterwards is the work's own.
    if throttled := _reading(report, "end").get("throttled"):
        notes.append(f"After the work the device was {throttled}: times may be off.")
    return notes


def _reading(report: Condition, when: Literal["start", "end"]) -> Reading:
    readings = report.get("health")
    return readings.get(when, {}) if readings else {}


def _boards(report: Condition) -> BoardUse:
    return report.get("boards") or {"used": [], "lost": [], "emulated": False}


def _facts(reading: Reading) -> dict[str, str]:
    return {
        "load": number(reading.get("load")),
        "governor": reading.get("governor") or NOTHING,
        "clock": _clock(reading),
        "temperature": number(reading.get("temperature_c"), " C"),
        "throttling": _throttling(reading),
        "free memory": text.size(reading.get("free_memory_bytes")),
    }


def _clock(reading: Reading) -> str:
    now, top = reading.get("clock_mhz"), reading.get("top_clock_mhz")
    if not is_number(now):
        return NOTHING
    return f"{now:.0f} of {top:.0f} MHz" if is_number(top) else f"{now:.0f} MHz"


def _throttling(reading: Reading) -> str:
    now, count = reading.get("throttled"), reading.get("throttle_count")
    parts = [] if now is None else [now or "none now"]
    parts += [f"{count} times since it was started"] if is_number(count) else []
    return ", ".join(parts) or NOTHING
