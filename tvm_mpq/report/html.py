"""The report as one HTML file: no scripts, nothing loaded from elsewhere, every name escaped by the templates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tvm_mpq.errors import OutputError
from tvm_mpq.report import condition, judging, learning, summary, text
from tvm_mpq.report.bars import latency_bars, legend
from tvm_mpq.report.contract import OperatorChoice, OptimizeReport
from tvm_mpq.report.text import NOTHING, number, percent, ratio

TEMPLATES = Environment(
    loader=PackageLoader("tvm_mpq.report"),
    autoescape=True,  # whatever a file is called: the drawing is one of them
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def write_report(report: OptimizeReport, path: str | Path) -> None:
    """Write the page of an `optimize` report.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    page = render(report)
    try:
        # A name may hold a lone surrogate (undecodable file names do), which UTF-8 cannot.
        Path(path).write_text(page, encoding="utf-8", errors="replace")
    except OSError as e:
        raise OutputError(f"cannot write report {str(path)!r}: {e.strerror}") from e


def render(report: OptimizeReport) -> str:
    """The whole page."""
    operators = report.get("operators", [])
    labels = summary.labels(report)
    return TEMPLATES.get_template("page.html.j2").render(
        model=report.get("model", "network"),
        target=report.get("target", NOTHING),
        device=report.get("device", NOTHING),
        cautions=summary.cautions(report),
        metric=summary.metric(report),
        networks=summary.network_rows(report),
        limits=summary.limits(report),
        answers=list(summary.answers(report)),
        predictions=_predictions(report),
        bars=latency_bars(operators),
        legend=legend(operators),
        labels=labels,
        operators=[_operator(operator, labels) for operator in operators],
        facts=_method(report),
        boards_used=condition.boards_used(report),
        boards_lost=condition.boards_lost(report),
        condition=condition.rows(report),
    )


def _predictions(report: OptimizeReport) -> list[tuple[str, ...]]:
    """Whole-network latency: what the table said against what the clock said."""
    measured, predicted = report.get("latency_ms", {}), report.get("predicted_ms", {})
    iqr = report.get("latency_iqr_ms", {})
    rows: list[tuple[str, ...]] = []
    for key, name in summary.NETWORKS.items():
        if key in measured:
            share = ratio(predicted.get(key), measured[key])
            error = NOTHING if share is None else percent(share - 1, signed=True)
            rows.append((name, number(predicted.get(key)), number(measured[key]), number(iqr.get(key)), error))
    return rows


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
        ("Conversions between formats", ", ".join(report.get("boundaries", [])) or "none"),
        ("Calibration", f"{samples} samples of {data}, observer {observer}"),
        ("Threads", str(report.get("threads", ""))),
        ("Device", str(report.get("device", ""))),
    ]
    return [(name, value) for name, value in facts if value]
