"""A result in a notebook: its page, apart from the notebook's own styles; and its operators as rows."""

from __future__ import annotations

from typing import Any, cast

from tvm_mpq.report.answers import BuildReport
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.html import render
from tvm_mpq.report.pages import TEMPLATES
from tvm_mpq.report.summary import import_check, plan_counts, time_of
from tvm_mpq.report.text import size


def view(report: OptimizeReport | BuildReport) -> str:
    """HTML for a notebook: the page of `optimize` in a frame, or what `build` says as a table."""
    page, facts = "", []
    if "operators" in report:
        page = render(cast(OptimizeReport, report))
    else:
        facts = [
            ("model", report["model"]),
            ("target", report["target"]),
            ("plan", plan_counts(report["plan"])),
            ("library", size(report["size_bytes"])),
            ("weights", size(report["weight_bytes"])),
            ("tensors", size(report["activation_bytes"])),
            ("import", import_check(report)),
        ]
    return TEMPLATES.get_template("notebook.html.j2").render(page=page, facts=facts).strip()


def table(report: OptimizeReport | BuildReport) -> list[dict[str, Any]]:
    """A row for each quantizable operator."""
    if "operators" not in report:
        return [{"operator": name, "precision": precision} for name, precision in report["plan"].items()]
    rows = []
    for operator in cast(OptimizeReport, report)["operators"]:
        candidates, precision = operator["candidates"], operator["precision"]
        rows.append(
            {
                "operator": operator["name"],
                "precision": precision,
                "workload": operator["workload"],
                "latency_us": operator["latency_us"],
                "latency_8bit_us": time_of(candidates["w8a8"]) if "w8a8" in candidates else None,
                "loss": candidates[precision]["loss"],
            }
        )
    return rows
