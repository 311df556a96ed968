"""A plan made before is built as it stands, on the threads it was made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpq_testing.networks import residual_network
from tvm_mpq.passes.graph import read_graph
from tvm_mpq.pipeline import build_network
from tvm_mpq.pipeline.options import Options
from tvm_mpq.schema import Plan
from tvm_mpq.targets import local_row, to_tvm_attrs


@pytest.mark.parametrize(("asked", "built"), [(None, 4), (1, 1)])
def test_a_plan_keeps_its_threads_unless_others_are_asked_for(asked: int | None, built: int, tmp_path: Path) -> None:
    operators = {n.name: "fp32" for n in read_graph(residual_network()).weighted()}
    Plan(local_row().name, to_tvm_attrs(local_row(), 4), operators, {}).save(tmp_path / "plan.json")
    options = Options(residual_network(), threads=asked, db=tmp_path / "latency.db")
    plan = build_network(options, uniform=None, plan=tmp_path / "plan.json").plan
    assert (plan.threads, plan.info["threads"]) == (built, built)
