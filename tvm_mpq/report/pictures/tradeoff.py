"""Sensitivity against saving: what each operator gains below 8 bit, and what that costs in accuracy."""

from __future__ import annotations

from tvm_mpq.report.contract import OperatorChoice
from tvm_mpq.report.pictures.scatter import Mark, Scatter, scatter
from tvm_mpq.report.summary import time_of
from tvm_mpq.report.text import is_number, number

BASE = "w8a8"


def tradeoff(operators: list[OperatorChoice]) -> Scatter | None:
    """A mark for each candidate below 8 bit, those taken filled; None where there is none."""
    marks = sorted((mark for o in operators for mark in _marks(o)), key=lambda m: m.kind == "chosen")
    if not marks:
        return None
    return scatter(marks, "saved against 8 bit, µs", "loss")


def _marks(operator: OperatorChoice) -> list[Mark]:
    found = operator.get("candidates", {})
    base = time_of(found[BASE]) if BASE in found else None
    if base is None:
        return []
    marks = []
    for label, figures in found.items():
        us, loss = time_of(figures), figures.get("loss")
        if label == BASE or not label.startswith("w") or us is None or not is_number(loss):
            continue
        taken = label == operator.get("precision")
        effect = f"saves {number(base - us, ' µs')}" if base >= us else f"costs {number(us - base, ' µs')}"
        title = f"{operator.get('name')} at {label}: {effect}, loss {number(loss)}"
        marks.append(Mark(base - us, loss, "chosen" if taken else "other", title))
    return marks
