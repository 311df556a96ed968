"""Which plans are run again to say why accuracy and table disagree: the two that are spoken of, under their budget."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tvm_mpq.pipeline.compare import _disagreements
from tvm_mpq.pipeline.held import HeldRun


def test_the_two_plans_spoken_of_are_run_on_the_tables_images() -> None:
    right = [(True,) * k + (False,) * (20 - k) for k in (0, 20, 10, 5)]
    rows: Any = [{"budget": b, "method": m} for b in (0.9, 0.8) for m in ("ilp", "amed")]
    solutions: Any = {str(i): SimpleNamespace(loss=0.1 * (i + 1)) for i in range(4)}
    runs = {str(i): HeldRun("top1", 5.0 * sum(r), 4.0 - i, r) for i, r in enumerate(right)}
    asked: list[str] = []

    def known(name: str) -> float:
        asked.append(name)
        return float(name)

    (said,) = _disagreements(solutions, rows, runs, known)
    assert asked == ["0", "1"]
    assert said.startswith("0.9 of 8 bit: amed has 100.00 % right") and "is made of ilp loses 0, amed 1" in said
