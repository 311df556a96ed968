"""`optimize` from end to end: what it reports, what it remembers, and that a kill -9 costs nothing.

Times are measured quickly here and never compared with anything.

In one file: one optimized network, made once, serves all of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

import tvm_mpq as mpq
from mpq_testing import onnx_models
from mpq_testing.lab import run_strangers
from mpq_testing.offered import few_bits, some_bits
from mpq_testing.quick import measure_quickly
from tvm_mpq.pipeline import demo
from tvm_mpq.pipeline import optimize as optimize_module
from tvm_mpq.pipeline.optimize import optimize
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.result import Result
from tvm_mpq.report import summary
from tvm_mpq.report.progress import OPTIMIZE_PHASES
from tvm_mpq.report.stored import read_report
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.measure.kernels import MeasureSettings

FEW = few_bits()
SOME = some_bits()

QUICK = {"repeats": 5, "min_repeat_ms": 0.2, "max_relative_iqr": 1e6, "max_drift": 1e6}
"""A busy machine gives bad numbers, and numbers do not matter here."""


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch, MeasureSettings(**QUICK))
        yield


@pytest.fixture(scope="module")
def digits(quick: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demo, twice on one database: a network that learned real digits, under the demo's size budget.

    Without a budget where this CPU has no kernels that keep it; what the demo chooses is tested in
    tests/unit/pipeline/test_demo.py.
    """
    pytest.importorskip("torch", reason="the demo trains with PyTorch (extra `demo`)")
    pytest.importorskip("sklearn", reason="the demo learns scikit-learn's digits (extra `demo`)")
    folder = tmp_path_factory.mktemp("digits")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CHANNELS", 24)  # a smaller and shorter demo learns the digits as well
        patch.setattr(demo, "EPOCHS", 8)
        train, test = demo.digits()
        trained = demo.train_network(*train)
        patch.setattr(demo, "digits", lambda: (tuple(x[:256] for x in train), test))  # enough to calibrate and judge
        patch.setattr(demo, "train_network", lambda images, labels, progress, state: trained)
        weights = sum(p.numel() for p in trained.parameters() if p.dim() > 1)
        budget = mpq.Budget(size_mb=demo.SIZE_SHARE * weights / 1e6) if FEW else mpq.Budget()
        patch.setattr(
            demo, "optimize", lambda options: optimize(dataclasses.replace(options, budget=budget, precisions=SOME))
        )
        stages: list[str] = []
        tell = lambda done, total, stage: stages.append(stage)  # noqa: E731
        options = Options(model=None, db=folder / "latency.db", say=said.append, progress=tell)
        first, second = demo.demo(options), demo.demo(options)
    return {"first": first, "second": second, "said": said, "stages": stages, "model": trained, "folder": folder}


def test_report_follows_the_contract(digits: dict[str, Any]) -> None:
    report = digits["first"].report
    wanted = {"operators", "plan", "latency_ms", "accuracy", "solver", "latency_entries", "artifacts", "sentinel_ratio"}
    assert wanted <= set(report)
    assert set(report["latency_ms"]) == {"fp32", "int8", "mixed", "predicted"}
    assert {"metric", "fp32", "int8", "mixed"} <= set(report["accuracy"])
    assert {"name", "status", "objective", "bound", "gap", "seconds"} <= set(report["solver"])
    assert {"measured", "predicted", "cached"} <= set(report["latency_entries"])
    assert [o["name"] for o in report["operators"]] == list(report["plan"])
    json.dumps(report, allow_nan=False)


def test_all_that_is_done_is_a_stage_of_the_whole_job(digits: dict[str, Any]) -> None:
    within_others = {"rounding weights"}  # of sensitivity, and of the plans that are checked
    assert set(digits["stages"]) - within_others <= OPTIMIZE_PHASES.keys()
    assert {"measuring kernels", "timing uniform networks", "timing what was built"} <= set(digits["stages"])
    assert digits["stages"][-1] == "writing the report"


def test_numbers_are_numbers(digits: dict[str, Any]) -> None:
    report = digits["first"].report
    assert all(math.isfinite(x) and x > 0 for x in report["latency_ms"].values())
    for operator in report["operators"]:
        for candidate in operator["candidates"].values():
            assert candidate["loss"] >= 0 and candidate["size_bytes"] > 0
            assert all(x > 0 for x in candidate["latency_us"].values())
    assert report["latency_entries"]["measured"] > 0


def test_only_floats_where_bytes_would_do_are_not_measured(digits: dict[str, Any]) -> None:
    """Of the plan that was built everything is, whatever it writes."""
    report = digits["first"].report
    assert report["latency_entries"]["predicted"] > 0
    for operator in report["operators"]:
        for label, candidate in operator["candidates"].items():
            predicted = candidate.get("predicted", [])
            assert predicted in ([], [32]) and not (label in ("fp32", "w8a8") and predicted)
            if label == operator["precision"]:
                measured = [us for bits, us in candidate["latency_us"].items() if bits not in predicted]
                assert operator["latency_us"] in measured


def test_real_accuracy_survives(digits: dict[str, Any]) -> None:
    """On test images that training never saw: 8 bits lose at most one point, the mixed plan at most three."""
    accuracy = digits["first"].report["accuracy"]
    assert accuracy["metric"] == "top1" and not accuracy["on_calibration_data"]
    assert accuracy["fp32"] > 93
    assert accuracy["int8"] >= accuracy["fp32"] - 1
    assert accuracy["mixed"] >= accuracy["fp32"] - 3


@pytest.mark.skipif(not FEW, reason="this CPU has no kernels below 8 bit")
def test_the_size_budget_is_kept_by_a_mix(digits: dict[str, Any]) -> None:
    report = digits["first"].report
    weights = sum(p.numel() for p in digits["model"].parameters() if p.dim() > 1)
    assert report["weight_bytes"]["mixed"] <= demo.SIZE_SHARE * weights < report["weight_bytes"]["int8"]
    used = set(report["plan"].values())
    assert len(used) > 1 and used & set(FEW)
    assert report["solver"]["status"].lower() == "optimal" and report["solver"]["gap"] < 1e-3


def test_what_the_page_draws_adds_up(digits: dict[str, Any]) -> None:
    report = digits["first"].report
    (chosen,) = (point for point in report["front"] if point["name"] == "chosen")
    assert chosen["latency_ms"] == pytest.approx(report["predicted_ms"]["mixed"])
    assert chosen["plan"] == report["plan"]
    assert any(not point["name"] for point in report["front"]) and len(report["front"]) > 3
    change_ms = sum(step["change_us"] for step in report["waterfall"]) / 1000
    assert change_ms == pytest.approx(report["predicted_ms"]["mixed"] - report["predicted_ms"]["int8"])
    digests = report["provenance"]["digests"]
    assert digests == digits["second"].report["provenance"]["digests"] and all(digests.values())


def test_a_second_run_measures_nothing_and_agrees(digits: dict[str, Any]) -> None:
    first, second = digits["first"], digits["second"]
    entries = second.report["latency_entries"]
    assert entries["measured"] == 0
    assert entries["cached"] == first.report["latency_entries"]["measured"] + first.report["latency_entries"]["cached"]
    assert second.plan.operators == first.plan.operators
    assert second.plan.formats == first.plan.formats
    assert second.plan.tensors == first.plan.tensors


def test_saved_library_serves_a_stranger(digits: dict[str, Any], tmp_path: Path) -> None:
    """Same signature and the same accuracy where tvm_mpq is not installed."""
    result: Result = digits["first"]
    report = result.save(tmp_path / "out")
    assert read_report(tmp_path / "out" / "report.json") == result.report
    names = {"model.so", "plan.json", "report.html", "verified.npz"}
    assert names <= set(report["artifacts"]) and all(Path(p).is_file() for p in report["artifacts"].values())
    assert mpq.Plan.load(report["artifacts"]["plan.json"]) == result.plan
    images, labels = demo.digits()[1]
    np.savez(tmp_path / "eval.npz", x=images, labels=labels)
    found = mpq.check(tmp_path / "out", drop=0.0, data=tmp_path / "eval.npz")["accuracy"]
    assert (found["then"], found["now"]) == (report["accuracy"]["mixed"],) * 2 and found["better"] == 0
    jobs = []
    for i in range(20):
        np.savez(tmp_path / f"in{i}.npz", images[i : i + 1])
        jobs.append(
            {
                "library": report["artifacts"]["model.so"],
                "inputs": str(tmp_path / f"in{i}.npz"),
                "outputs": str(tmp_path / f"out{i}.npz"),
            }
        )
    outputs = [out[0] for out in run_strangers(jobs, tmp_path)]
    assert {(o.dtype.name, o.shape) for o in outputs} == {("float32", (1, 10))}
    assert sum(int(o.argmax() == y) for o, y in zip(outputs, labels, strict=False)) >= 18


@pytest.mark.slow
def test_max_drop_is_kept(quick: None, digits: dict[str, Any]) -> None:
    """The fastest plan shown to lose at most half a point; the images were trained on, which is said."""
    import torch

    said: list[str] = []
    images, labels = (x[:96] for x in demo.digits()[0])
    result = mpq.optimize(
        digits["model"], example_inputs=(torch.zeros(1, 1, 8, 8),), data={"x": images, "labels": labels},
        precisions=SOME, budget=mpq.Budget(max_drop=0.5), db=digits["folder"] / "latency.db", say=said.append,
    )  # fmt: skip
    report = result.report
    judged, tried = report["judgement"], report["plans_tried"]
    assert judged["chosen"]["high"] <= 0.5 and judged["trained_on"] and judged["mixed_images"] == 48
    assert any("look trained on (fp32 is right on" in text for text in said)
    keeping = [t for t in tried if t["high"] <= 0.5]
    uniform = [t for t in keeping if t["name"]]
    assert uniform and judged["plans"] == len(tried) and judged["data"] == "calib"
    rival = judged["rival"]
    if rival is None or not rival["chosen"]:
        assert report["latency_ms"]["predicted"] <= 1.01 * min(t["predicted_ms"] for t in keeping)
    assert report["latency_ms"]["mixed"] <= report["latency_ms"]["fp32"] or set(report["plan"].values()) == {"fp32"}
    assert report["latency_entries"]["measured"] == 0
    assert report["accuracy"]["on_calibration_data"] and report["held"]["mixed"]["images"] == 48, "not those rounded on"


@pytest.mark.slow
def test_evaluation_data_may_judge(quick: None, digits: dict[str, Any]) -> None:
    """Then they are the images that the decision stands on, and the report says that they are no test any more."""
    import torch

    images, labels = (x[:96] for x in demo.digits()[0])
    new, answers = (x[:80] for x in demo.digits()[1])
    result = mpq.optimize(
        digits["model"], example_inputs=(torch.zeros(1, 1, 8, 8),), data={"x": images, "labels": labels},
        eval_data={"x": new, "labels": answers}, judge="eval", precisions=SOME, budget=mpq.Budget(max_drop=2.0),
        db=digits["folder"] / "latency.db",
    )  # fmt: skip
    judged, held = result.report["judgement"], result.report["held"]["mixed"]
    assert (judged["data"], judged["images"], judged["trained_on"]) == ("eval", 80, False)
    assert judged["chosen"]["high"] <= 2.0
    assert held["images"] == 80 and held["low"] < held["estimate"] < held["high"]
    assert 100 * (held["worse"] - held["better"]) / 80 == pytest.approx(held["estimate"])
    assert any("no independent test" in text for text in summary.cautions(result.report))


DRIVER = """
import os, signal, sys
sys.modules["torch"] = None  # TVM would import it, for seconds
import psutil
import tvm_mpq as mpq
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.kernels import MeasureSettings

presets.KERNELS = presets.NETWORKS = presets.CALLS = MeasureSettings(**{quick!r})

def progress(done, total, what):
    if what == "measuring kernels" and done == {kernels}:
        print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

options = dict(precisions={some!r}, budget=mpq.Budget(latency_ratio=1.0))
mpq.optimize(sys.argv[1], db=sys.argv[2], progress=progress, **options)
"""


def test_kill_9_loses_nothing_that_was_measured(quick: None, tmp_path: Path) -> None:
    model, db = tmp_path / "model.onnx", tmp_path / "latency.db"
    onnx.save(onnx_models.ends_in_conv(), str(model))
    driver = DRIVER.format(quick=QUICK, kernels=5, some=SOME)
    killed = subprocess.run(
        [sys.executable, "-c", driver, str(model), str(db)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    _wait_for_the_end_of([int(pid) for pid in killed.stdout.split()])
    with LatencyDatabase(db) as opened:
        assert opened.verify() == []
        before = list(opened.records())
    assert len(before) == 5 and all(r.median_us is not None for r in before)

    result = mpq.optimize(model, db=db, precisions=SOME, budget=mpq.Budget(latency_ratio=1.0))
    entries = result.report["latency_entries"]
    assert entries["cached"] == 5 and entries["measured"] > 0
    with LatencyDatabase(db) as opened:
        assert opened.verify() == []
        assert set(before) <= set(opened.records())


def _wait_for_the_end_of(pids: list[int]) -> None:
    """A killed run leaves no process behind that would go on measuring."""
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def small(
    quick: None, tmp_path_factory: pytest.TempPathFactory, sharing: Callable[[Path], Path]
) -> Callable[..., Result]:
    """small(model, **options): optimize on one database; what is asked twice is measured once."""
    folder = tmp_path_factory.mktemp("small")
    db = sharing(folder / "latency.db")

    def run(model: onnx.ModelProto, **options: Any) -> Result:
        path = folder / "model.onnx"
        onnx.save(model, str(path))
        return mpq.optimize(path, db=db, precisions=SOME, verify_import=False, **options)

    return run


def test_without_data_synthetic_ones_are_used_and_said(small: Callable[..., Result]) -> None:
    said: list[str] = []
    result = small(onnx_models.multilayer(), budget=mpq.Budget(latency_ratio=1.0), say=said.append)
    assert any("synthetic" in text for text in said) and result.report["calibration"]["synthetic"]
    assert result.report["accuracy"]["metric"] == "relative_error"


def test_nothing_to_quantize_is_built_as_fp32_and_said(small: Callable[..., Result], tmp_path: Path) -> None:
    said: list[str] = []
    result = small(onnx_models.nothing_to_quantize(), say=said.append)
    assert "the model has no quantizable operator: it is built as fp32" in said
    assert result.plan.operators == {} and result.report["operators"] == []
    x = np.random.default_rng(0).normal(size=(1, 12)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x)
    job = {
        "library": str(result.folder / "model.so"),
        "inputs": str(tmp_path / "in.npz"),
        "outputs": str(tmp_path / "o.npz"),
    }
    ((y,),) = run_strangers([job], tmp_path)
    wanted = np.exp(2 * x) / np.exp(2 * x).sum()
    np.testing.assert_allclose(y, wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_outputs", "two_inputs", "float_middle"])
def test_other_graphs_go_all_the_way(small: Callable[..., Result], name: str) -> None:
    result = small(onnx_models.GRAPHS[name](), budget=mpq.Budget(latency_ratio=1.0))
    report = result.report
    assert report["latency_ms"]["predicted"] <= report["predicted_ms"]["int8"] * (1 + 1e-6)
    assert set(report["plan"].values()) <= {"fp32", "w8a8", *SOME}


def test_a_budget_that_no_built_network_keeps_is_given_up(
    small: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last attempt nothing is selected anew: what is told of is what was built."""
    monkeypatch.setattr(optimize_module, "excess", lambda *_: 1.5)
    said: list[str] = []
    result = small(onnx_models.multilayer(), budget=mpq.Budget(latency_ms=1000), say=said.append)
    assert sum("selecting again" in text for text in said) == optimize_module.TIGHTENINGS
    assert result.report["plan"] == result.plan.operators


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (mpq.Budget(latency_ratio=1e-6), "latency_ratio 1e-06 .* latency_ratio 0"),
        (mpq.Budget(latency_ms=1e-9), "latency_ms 1e-09 .* latency_ms 0"),
        (mpq.Budget(size_mb=1e-6), "size_mb 1e-06 .* size_mb 0"),
    ],
)
def test_an_unreachable_budget_says_what_would_do(small: Callable[..., Result], budget: mpq.Budget, text: str) -> None:
    from tvm_mpq.errors import InfeasibleError

    with pytest.raises(InfeasibleError, match=text) as caught:
        small(onnx_models.multilayer(), budget=budget)
    assert "\n" not in str(caught.value) and "least" in str(caught.value) and "--nearest" in str(caught.value)


def test_the_nearest_plan_is_built_when_that_is_asked_for(small: Callable[..., Result]) -> None:
    said: list[str] = []
    asked = mpq.Budget(size_mb=1e-6, latency_ms=1e-9)
    report = small(onnx_models.multilayer(), budget=asked, nearest=True, say=said.append).report
    kept = report["nearest_budget"]
    assert any("out of reach" in text for text in said)
    assert report["budget"] == {**kept, "size_mb": 1e-6, "latency_ms": 1e-9}
    assert report["weight_bytes"]["mixed"] <= kept["size_mb"] * 1e6
    assert report["predicted_ms"]["mixed"] <= kept["latency_ms"]
