"""`tune`: what it measures, that it goes on where it stopped, and that later jobs use what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from mpq_testing import onnx_models
from mpq_testing.quick import measure_quickly
from tvm_mpq.costs.measured import fill
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.pipeline import tune_network
from tvm_mpq.pipeline.context import open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.problem import Space
from tvm_mpq.report import tables
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.measure.kernels import MeasureSettings

QUICK = {"repeats": 5, "min_repeat_ms": 0.2, "max_relative_iqr": 1e6, "max_drift": 1e6}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, sharing: Callable[[Path], Path]) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tune")
    onnx.save(onnx_models.ends_in_conv(), str(folder / "model.onnx"))
    options = Options(folder / "model.onnx", db=sharing(folder / "db"))
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch, MeasureSettings(**QUICK))
        first = tune_network(options, trials=5)
        second = tune_network(options, trials=3)
        yield {"options": options, "first": first, "second": second}


def test_the_budget_of_trials_is_kept_and_said(tuned: dict[str, Any]) -> None:
    first = tuned["first"]
    assert first["trials"] == 5 and first["ended"] == "5 trials were measured"
    assert first["latency_entries"]["measured"] > 5  # the defaults too
    assert first["sum_ms"]["after"] <= first["sum_ms"]["before"]
    assert {"start", "end"} <= first["health"].keys() and first["boards"] is None
    json.dumps(first, allow_nan=False)


def test_a_second_run_goes_on(tuned: dict[str, Any]) -> None:
    """No default and no candidate is measured again."""
    first, second = tuned["first"], tuned["second"]
    assert second["latency_entries"]["measured"] == second["trials"] == 3
    assert second["candidates_left"] == first["candidates_left"] - 3
    assert second["sum_ms"]["before"] == pytest.approx(first["sum_ms"]["after"])


def test_the_fastest_known_kernel_is_what_later_jobs_use(tuned: dict[str, Any]) -> None:
    with open_context(tuned["options"]) as context:
        space = Space(context.prepared.graph, context.prepared.features, context.prepared.threads)
        profiler = context.profiler()
        table = fill(profiler, space.requests())
        assert table.measured == 0
        with LatencyDatabase(tuned["options"].db) as db:
            for request in space.requests():
                known = db.records(
                    failures=False,
                    workload=request.workload.key,
                    precision=str(request.precision),
                    out_bits=request.out_bits,
                )
                assert table.latency_us(request) == min(r.median_us for r in known)


def test_what_tuning_found_is_shown(tuned: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "workload": "conv2d(batch=1)", "precision": "w8a8", "out_bits": 8, "default_us": 10.0, "best_us": 7.5,
        "family": "f", "knobs": {"rows": 1}, "uses": 3,
    }  # fmt: skip
    tables.show_tune({**tuned["first"], "tuned": [row]})
    shown = capsys.readouterr().out
    assert "25.0 %" in shown and "5 trials were measured" in shown


@pytest.mark.parametrize("limits", [{"trials": 0}, {"minutes": 0.0}, {"minutes": -1.0}])
def test_limits_must_be_above_zero(limits: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="must be above 0"):
        tune_network(Options(tmp_path / "none.onnx"), **limits)
