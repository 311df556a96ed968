from __future__ import annotations

import pytest

from tvm_mpq import cli, pipeline
from tvm_mpq.report.answers import InspectReport


def test_the_command_is_known_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a report can say how to repeat it."""
    asked: list[str] = []

    def job(options: pipeline.Options) -> InspectReport:
        asked.append(options.command)
        totals = {"operators": 0, "quantizable": 0, "macs": 0, "parameters": 0}
        return {"model": "", "target": "", "inputs": {}, "notes": [], "operators": [], "totals": totals}

    monkeypatch.setattr(pipeline, "inspect_network", job, raising=False)
    cli.main(["inspect", "a network.onnx", "--batch", "2", "--json"])
    assert asked == ["tvm-mpq inspect 'a network.onnx' --batch 2 --json"]
