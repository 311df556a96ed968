"""The page of `compare`: every method's plans drawn beside the solver's, the table, and what it was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_mpq.report import condition, summary
from tvm_mpq.report.answers import CompareReport, MethodRow
from tvm_mpq.report.pages import TEMPLATES, write_page
from tvm_mpq.report.pictures.methods import kinds, methods_over_held_loss, methods_over_loss
from tvm_mpq.report.text import NOTHING, number, percent


def write_comparison(report: CompareReport, path: str | Path) -> None:
    """Write the page of a `compare` report.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_page(render(report), path)


def render(report: CompareReport) -> str:
    """The whole page."""
    columns = _columns(report)
    return TEMPLATES.get_template("comparison.html.j2").render(
        model=report["model"],
        target=report["target"],
        device=report["device"] if report["latency_source"] == "measured" else report["latency_source"],
        axis=report["axis"],
        int8=number(report["int8_mj"], " mJ") if report["axis"] == "energy" else number(report["int8_ms"], " ms"),
        seed=report["seed"],
        free_bits=report["free_bits"],
        methods=kinds(report),
        over_loss=methods_over_loss(report),
        over_held=methods_over_held_loss(report),
        headers=[header for header, _ in columns],
        rows=[[cell(row) for _, cell in columns] for row in report["rows"]],
        missing=summary.without_plan(report["rows"]),
        disagreements=report["disagreements"],
        uniform=[
            (u["precision"], number(u["predicted_ms"]), number(u["accuracy"], " %"), number(u["held_loss"]))
            for u in report["uniform"]
        ],
        cautions=list(condition.cautions(report)),
        entries=summary.entries_line(report["latency_entries"]),
    )


def _columns(report: CompareReport) -> list[tuple[str, Any]]:
    """(header, row -> text); what was not asked for has none."""

    def shown(header: str, name: str, unit: str = "") -> tuple[str, Any]:
        def cell(row: MethodRow) -> str:
            return number(row.get(name), unit)

        return header, cell

    rows = report["rows"]
    columns = [
        ("method", lambda row: row["method"]),
        shown("budget", "budget"),
        shown("loss by the table", "loss"),
        ("gap to bound", lambda row: percent(row["gap"])),
        shown("predicted, ms", "predicted_ms"),
    ]
    if report["int8_mj"] is not None:
        columns.append(shown("energy, mJ", "energy_mj"))
    if any(row["measured_ms"] is not None for row in rows):
        columns.append(shown("measured, ms", "measured_ms"))
    if report["metric"]:
        columns.append(shown(summary.metric_name(report["metric"]), "accuracy", " %"))
        columns.append(shown("loss, whole network", "held_loss"))
    columns += [
        ("plans priced", lambda row: str(row["evaluations"] or NOTHING)),
        shown("seconds", "seconds"),
        ("operators", lambda row: summary.plan_counts(row["plan"]) if row["plan"] else "no plan"),
    ]
    return columns
