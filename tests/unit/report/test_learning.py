"""How fine-tuning went, as a command prints it."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.report import html, learning, tables
from tvm_mpq.report.contract import FinetuneReport

FOUND: FinetuneReport = {
    "epochs": 30,
    "kept": 28,
    "held": 249,
    "hits": {"fp32": 247, "before": 22, "after": 238},
    "loss": {"before": 34.85, "after": 1.25},
    "seconds_per_epoch": 15.5,
}

WORDS = "epoch 28 of 30 was best: 22 -> 238 of 249 samples kept aside right (fp32: 247), loss 34.9 -> 1.25"


def test_one_row_says_it() -> None:
    assert learning.facts({"finetune": FOUND}) == [("learned", f"{WORDS}; 15.5 s an epoch")]  # type: ignore[typeddict-item]
    known: Any = {"finetune": {**FOUND, "seconds_per_epoch": 0.0}}
    assert learning.facts(known) == [("learned", WORDS)]


def test_nothing_is_said_of_what_was_not_done(report: dict[str, Any]) -> None:
    assert learning.facts(report) == []  # type: ignore[arg-type]


def test_the_report_of_optimize_has_it(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    report["finetune"] = FOUND
    tables.show_optimize(report)  # type: ignore[arg-type]
    assert WORDS in capsys.readouterr().out
    assert ("Learned", f"{WORDS}; 15.5 s an epoch") in html._method(report)  # type: ignore[arg-type]
