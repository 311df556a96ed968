"""From uniform 8 bit to the mixed plan, step by step."""

from __future__ import annotations

from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.pictures.bars import Bar
from tvm_mpq.report.pictures.palette import Shade
from tvm_mpq.report.text import is_number, number

TOTAL, FASTER, SLOWER = Shade("#5b6875", "dark"), Shade("#2f6fb5", "dark"), Shade("#e69f00", "light")
"""Blue and orange differ for every kind of sight, and the sign is written too."""

SHOWN = 12
"""Steps drawn one by one, the largest; the others are one step."""


def waterfall_bars(report: OptimizeReport) -> list[Bar]:
    """Empty where the report, of an older version, has no steps, or nothing differs."""
    steps = [(step["name"], step["change_us"] / 1000) for step in report.get("waterfall", [])]
    start, end = (report.get("predicted_ms", {}).get(name) for name in ("int8", "mixed"))
    if not steps or not is_number(start) or not is_number(end):
        return []
    least_shown = sorted((abs(change) for _, change in steps), reverse=True)[:SHOWN][-1]
    shown = [step for step in steps if abs(step[1]) >= least_shown]
    others = [change for _, change in steps if abs(change) < least_shown]
    if others:
        shown.append((f"{len(others)} smaller steps", sum(others)))
    edges = [start]
    for _, change in shown:
        edges.append(edges[-1] + change)
    widest = max(*edges, end)
    bars = [Bar("uniform 8 bit", 0.0, start / widest, TOTAL, number(start, " ms"))]
    for (name, change), before, after in zip(shown, edges, edges[1:], strict=False):
        sign = "+" if change > 0 else "-"
        low, high = max(0.0, min(before, after)), max(before, after)
        text = f"{sign}{number(1000 * abs(change), ' µs')}"
        bars.append(Bar(name, low / widest, (high - low) / widest, SLOWER if change > 0 else FASTER, text))
    return [*bars, Bar("mixed", 0.0, end / widest, TOTAL, number(end, " ms"))]
