"""The report as one HTML file: no scripts, nothing loaded from elsewhere, every name escaped by the templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_mpq.report import condition, judging, learning, other_engines, summary, text
from tvm_mpq.report.contract import OperatorChoice, OptimizeReport
from tvm_mpq.report.pages import TEMPLATES, write_page
from tvm_mpq.report.pictures.agreement import agreement
from tvm_mpq.report.pictures.latency import latency_bars
from tvm_mpq.report.pictures.pareto import pareto
from tvm_mpq.report.pictures.strip import legend, strip
from tvm_mpq.report.pictures.tradeoff import tradeoff
from tvm_mpq.report.pictures.waterfall import waterfall_bars
from tvm_mpq.report.text import NOTHING, number


def write_report(report: OptimizeReport, path: str | Path) -> None:
    """Write the page of an `optimize` report.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_page(render(report), path)


def render(report: OptimizeReport) -> str:
    """The whole page."""
    operators = report.get("operators", [])
    labels = summary.labels(report)
    parts: dict[str, Any] = {
        "pareto": pareto(report),
        "agreement": agreement(report),
        "strip": strip(operators),
        "legend": legend(operators),
        "waterfall": waterfall_bars(report) if operators else [],
        "latency": latency_bars(operators),
        "tradeoff": tradeoff(operators),
        "operators": [_operator(operator, labels) for operator in operators],
        "provenance": report.get("provenance"),
    }
    return TEMPLATES.get_template("page.html.j2").render(
        model=report.get("model", "network"),
        target=report.get("target", NOTHING),
        device=_device(report.get("device", NOTHING)),
        contents=_contents(parts),
        cautions=summary.cautions(report),
        metric=summary.metric(report),
        networks=summary.network_rows(report),
        limits=summary.limits(report),
        answers=list(summary.answers(report)),
        labels=labels,
        facts=_method(report),
        peer=other_engines.fastest_int8(report),
        boards_used=condition.boards_used(report),
        boards_lost=condition.boards_lost(report),
        condition=condition.rows(report),
        **parts,
    )


def _device(key: str) -> str:
    """Processor and core of a device's key; the whole of it stands among the facts."""
    model, _, rest = key.partition("|")
    core = rest.partition("|")[0]
    return f"{model} ({core})" if core else model


def _contents(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(anchor, title) of the parts that the page has."""
    there = [
        ("result", "Result", True),
        ("pareto", "Latency against loss", parts["pareto"]),
        ("predicted", "Predicted and measured", True),
        ("bits", "Bits along the network", True),
        ("waterfall", "From 8 bit to mixed", parts["waterfall"]),
        ("time", "Where the time goes", parts["operators"]),
        ("tradeoff", "Sensitivity against saving", parts["tradeoff"]),
        ("operators", "Operators", parts["operators"]),
        ("method", "How this was found", True),
        ("device", "The device", True),
        ("provenance", "To repeat it", parts["provenance"]),
    ]
    return [(anchor, title) for anchor, title, shown in there if shown]


@dataclass(frozen=True)
class TableCell:
    """One candidate precision of one operator, as text."""

    time: str
    loss: str
    chosen: bool


@dataclass(frozen=True)
class OperatorRow:
    """One operator. candidates: in the order of the columns, None where it has no such candidate."""

    name: str
    workload: str
    workload_key: str
    precision: str
    reason: str
    candidates: list[TableCell | None]


def _operator(operator: OperatorChoice, labels: list[str]) -> OperatorRow:
    key, precision = str(operator.get("workload", "")), operator.get("precision", NOTHING)
    found = operator.get("candidates", {})
    cells = [
        TableCell(number(summary.time_of(found[label]), " µs"), number(found[label].get("loss")), label == precision)
        if label in found
        else None
        for label in labels
    ]
    reason = operator.get("reason", "")
    return OperatorRow(str(operator.get("name")), text.workload(key), key, str(precision), reason, cells)


def _method(report: OptimizeReport) -> list[tuple[str, str]]:
    """How the plan was found: name and value, without what is not known."""
    calibration = report.get("calibration", {})
    tried = report.get("plans_tried", [])
    data = "synthetic data (standard normal)" if calibration.get("synthetic") else "the user's data"
    samples, observer = calibration.get("samples", NOTHING), calibration.get("observer", NOTHING)
    facts = [
        ("Plan", summary.plan_counts(report.get("plan", {}))),
        *((name[0].upper() + name[1:], value) for name, value in judging.facts(report)),
        ("Solver", summary.solver_line(report)),
        ("Plans run end to end before choosing", "; ".join(map(judging.tried_text, tried))),
        ("Latency entries", summary.entries_line(report.get("latency_entries", {}))),
        *((name.capitalize(), words) for name, words in learning.facts(report)),
        *((name.capitalize(), words) for name, words in other_engines.facts(report)),
        ("Conversions between formats", ", ".join(report.get("boundaries", [])) or "none"),
        ("Calibration", f"{samples} samples of {data}, observer {observer}"),
        ("Threads", str(report.get("threads", ""))),
        ("Device", str(report.get("device", ""))),
    ]
    return [(name, value) for name, value in facts if value]
