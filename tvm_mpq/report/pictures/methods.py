"""Plans of every search method over what they cost, beside the solver's, which nothing within the budget beats."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mpq.report.answers import CompareReport, MethodRow
from tvm_mpq.report.pictures.scatter import Mark, Scatter, scatter
from tvm_mpq.report.text import is_number, number, percent

PROVEN = "ilp"
"""The method whose plans are joined."""

KINDS = 9
"""Classes `method0` and up in the style sheet, a colour each; later methods begin anew."""


def methods_over_loss(report: CompareReport) -> Scatter | None:
    """Loss by the table over predicted latency, or energy; None where no method found a plan."""
    return _scatter(report, "loss", "loss by the table (sum of the operators')")


def methods_over_held_loss(report: CompareReport) -> Scatter | None:
    """Loss of the whole network on the evaluation data; None where there were none."""
    return _scatter(report, "held_loss", "loss of the whole network on the evaluation data")


def kinds(report: CompareReport) -> list[tuple[str, str]]:
    """(method, its class) in the order of the rows."""
    names = list(dict.fromkeys(row["method"] for row in report["rows"]))
    return [(name, _kind(names, name)) for name in names]


def _scatter(report: CompareReport, what: str, y_name: str) -> Scatter | None:
    energy = report["axis"] == "energy"
    cost, unit = ("energy_mj", "mJ") if energy else ("predicted_ms", "ms")
    names = [name for name, _ in kinds(report)]
    rows = [r for r in report["rows"] if is_number(r.get(what)) and is_number(r.get(cost))]
    if not rows:
        return None
    rows.sort(key=lambda row: row["method"] == PROVEN)  # on top
    marks = [_mark(row, what, cost, unit, _kind(names, row["method"])) for row in rows]
    whole = report["int8_mj"] if energy else report["int8_ms"]
    budgets = dict.fromkeys(row["budget"] for row in report["rows"])
    limits = [(share * whole, f"{share:g}") for share in budgets] if is_number(whole) else []
    joined = _kind(names, PROVEN) if PROVEN in names else ""
    return scatter(marks, f"predicted {report['axis']}, {unit}", y_name, joined=joined, limits=limits)


def _mark(row: MethodRow, what: str, cost: str, unit: str, kind: str) -> Mark:
    facts = [
        f"{row['method']} within {row['budget']:g} of 8 bit: {number(row[cost], f' {unit}')}",  # type: ignore[literal-required]
        f"loss {number(row[what])}",  # type: ignore[literal-required]
        f"{percent(row['gap'])} above the bound" if row["gap"] else "the least there is" if row["gap"] == 0 else "",
        f"accuracy {number(row['accuracy'], ' %')}" if row["accuracy"] is not None else "",
    ]
    return Mark(row[cost], row[what], kind, ", ".join(fact for fact in facts if fact))  # type: ignore[literal-required]


def _kind(names: Sequence[str], name: str) -> str:
    return f"method{names.index(name) % KINDS}"
