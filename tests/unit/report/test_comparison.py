"""The page of `compare`: pictures of all methods' plans, the table, reasons; names are text whatever they hold."""

from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.errors import OutputError
from tvm_mpq.report.comparison import render, write_comparison
from tvm_mpq.report.pictures.methods import kinds, methods_over_held_loss, methods_over_loss


def row(method: str, budget: float, loss: float | None, **more: Any) -> dict[str, Any]:
    found = loss is not None
    return {
        "method": method, "budget": budget, "reason": "" if found else "nothing within it", "bound": 0.1, "gap": 0.0,
        "seconds": 1.0, "loss": loss, "predicted_ms": 2 * budget if found else None, "ratio": budget, "size_mb": 1.0,
        "energy_mj": None, "evaluations": 7, "status": "", "plan": {"a": "w4a8"} if found else {}, "measured_ms": None,
        "accuracy": None, "held_loss": None, "trace": [], **more,
    }  # fmt: skip


@pytest.fixture
def report() -> Any:
    return {
        "model": "<b>m</b>", "target": "t", "device": "cpu", "latency_source": "measured", "axis": "latency",
        "int8_ms": 2.0, "int8_mj": None, "seed": 0, "free_bits": False, "metric": "", "disagreements": [],
        "uniform": [], "latency_entries": {}, "health": None, "boards": None,
        "rows": [
            row("ilp", 0.9, 0.1), row("amed", 0.9, 0.3, gap=0.5), row("haq", 0.9, None),
            row("ilp", 0.6, 0.5), row("amed", 0.6, 0.7), row("haq", 0.6, 0.9),
        ],
    }  # fmt: skip


def test_the_solvers_plans_are_joined_and_no_other_lies_below_them(report: Any) -> None:
    drawn = methods_over_loss(report)
    assert drawn is not None and methods_over_held_loss(report) is None
    assert [name for name, _ in kinds(report)] == ["ilp", "amed", "haq"]
    ilp = sorted((m.x, m.y) for m in drawn.marks if m.kind == "method0")
    assert drawn.path == ilp and len(ilp) == 2
    assert {m.kind for m in drawn.marks} == {"method0", "method1", "method2"} and len(drawn.marks) == 5
    for mark in drawn.marks:  # pixels: less loss is further down
        assert all(mark.y <= y for x, y in ilp if x == mark.x)
    assert [line.name for line in drawn.lines] == ["0.9", "0.6"]
    titles = [mark.title for mark in drawn.marks]
    assert "amed within 0.9 of 8 bit: 1.80 ms, loss 0.300, 50.0 % above the bound" in titles


def test_energy_is_drawn_over_energy(report: Any) -> None:
    rows = [{**r, "energy_mj": 5 * r["budget"] if r["loss"] else None} for r in report["rows"]]
    drawn = methods_over_loss({**report, "axis": "energy", "int8_mj": 5.0, "rows": rows})
    assert drawn is not None and drawn.x_name == "predicted energy, mJ"
    assert "ilp within 0.9 of 8 bit: 4.50 mJ, loss 0.100, the least there is" in [m.title for m in drawn.marks]


def test_the_page_has_what_was_asked_for(report: Any) -> None:
    page = render(report)
    assert "<b>m" not in page and "&lt;b&gt;m" in page
    assert page.count('<svg role="img"') == 1 and "whole network" not in page
    assert "haq; 0.9: nothing within it" in page and "0.300" in page
    for r in report["rows"]:
        r |= {"accuracy": 91.25, "held_loss": 0.2} if r["loss"] else {}
    fixed = {"precision": "w8a8", "predicted_ms": 2.0, "accuracy": 92.5, "held_loss": 0.01}
    page = render({**report, "metric": "top1", "disagreements": ["because <i>"], "uniform": [fixed]})
    assert page.count('<svg role="img"') == 2
    assert "because &lt;i&gt;" in page and "92.5 %" in page and "91.2 %" in page


def test_a_page_without_any_plan(report: Any) -> None:
    page = render({**report, "rows": [row("ilp", 0.1, None)]})
    assert '<svg role="img"' not in page and "no plan" in page


def test_a_page_that_cannot_be_written(report: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write page"):
        write_comparison(report, tmp_path / "none" / "page.html")
