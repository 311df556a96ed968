"""The table of `bench` and the lines below it say the same ratio: of rounds that timed both engines, not of medians."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.peers.compare import Comparison, Settings, Subject
from tvm_mpq.peers.rounds import Turn
from tvm_mpq.report.peers import show_peers

MACHINE = {"cpu": "some", "core_type": "zen", "cores": 2, "load_average": [0.0]}


def test_the_column_is_of_the_same_rounds_as_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine is twice as slow in most rounds of one engine's calm turns, which moves medians and no ratio."""
    names = ("ours-int8", "ort-int8", "ours-w4a8")
    subject = Subject("net", tmp_path, tmp_path, "noise")
    work = Comparison(Settings(tmp_path, names, rounds=4), subject, 1, io.BytesIO())
    children: Any = dict.fromkeys(names)
    work._children = children
    work.row.engines = {
        name: {"first_ms": 1.0, "load_ms": 1.0, "versions": {"some": "1"}, "agreement": None} for name in names
    }

    def turn(us: float, waited: float = 0.0) -> Turn:
        return Turn(us, 9, 100.0, 100.0, waited)

    taken = [
        {"ours-int8": turn(t), "ort-int8": turn(2 * t, waited=0.5 * (t > 10)), "ours-w4a8": turn(t / 2)}
        for t in (10.0, 10.0, 20.0, 20.0, 20.0)
    ]
    work._summarize(taken)
    engines = work.row.engines
    assert engines["ours-int8"]["median_ms"] == engines["ort-int8"]["median_ms"] == 0.02
    row = json.loads(json.dumps(dataclasses.asdict(work.row) | {"rounds": {"taken": 5}}))
    show_peers({"rows": [row], "missing": {}, "machine": MACHINE})
    shown = capsys.readouterr().out
    assert "int8: ours-int8 / ort-int8 = 0.500" in shown
    column = {line.split()[0]: line.split()[4] for line in shown.splitlines() if line.split()[1:2] and "%" in line}
    assert column == {"ours-int8": "0.500", "ort-int8": "1.000", "ours-w4a8": "0.250"}
