"""Latency against loss of every plan that was priced: the front, uniform plans, the chosen one, the budget."""

from __future__ import annotations

from tvm_mpq.report.contract import FrontPoint, OptimizeReport
from tvm_mpq.report.other_engines import fastest_int8
from tvm_mpq.report.pictures.scatter import Mark, Scatter, scatter
from tvm_mpq.report.summary import plan_counts
from tvm_mpq.report.text import is_number, number

CHOSEN = "chosen"
NAMED = ("uniform fp32", "uniform w8a8")
"""Uniform plans with their names beside them; others say theirs when pointed at, so that names do not overlap."""


def pareto(report: OptimizeReport) -> Scatter | None:
    """None where the report, of an older version, has no front."""
    points = [p for p in report.get("front", []) if is_number(p["latency_ms"]) and is_number(p["loss"])]
    if not points:
        return None
    marks = [_mark(p) for p in sorted(points, key=lambda p: p["name"] == CHOSEN)]  # the chosen one on top
    lines = [*_budget(report), *_peer(report)]
    return scatter(marks, "predicted latency, ms", "loss (sum of the operators')", joined="searched", limits=lines)


def _mark(point: FrontPoint) -> Mark:
    name = point["name"]
    kind = "chosen" if name == CHOSEN else "uniform" if name else "searched"
    beaten = point["dominated"] and kind != "chosen"
    said = "chosen plan" if name == CHOSEN else name or "searched plan"
    title = f"{said}: {number(point['latency_ms'], ' ms')}, loss {number(point['loss'])}, " + (
        f"{number(point['size_mb'], ' MB')} of weights, {plan_counts(point['plan'])}"
    )
    label = CHOSEN if name == CHOSEN else name.removeprefix("uniform ") if name in NAMED else ""
    return Mark(
        point["latency_ms"],
        point["loss"],
        f"{kind} dominated" if beaten else kind,
        title + (" (another plan beats it in both)" if beaten else ""),
        label,
    )


def _budget(report: OptimizeReport) -> list[tuple[float, str]]:
    budget, int8 = report.get("budget") or {}, report.get("predicted_ms", {}).get("int8")
    limits = []
    if is_number(most := budget.get("latency_ms")):
        limits.append((most, "budget"))
    if is_number(share := budget.get("latency_ratio")) and is_number(int8):
        limits.append((share * int8, "budget"))
    return limits


def _peer(report: OptimizeReport) -> list[tuple[float, str]]:
    """Where the fastest other engine stands at 8 bit, of which no loss is known."""
    peer = fastest_int8(report)
    return [] if peer is None else [(peer["latency_ms"], peer["engine"])]
