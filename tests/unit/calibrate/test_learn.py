"""What the network tells is kept for other CPUs too: a plan may name a precision that only they have fast code for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpq_testing.lab import Lab
from mpq_testing.onnx_models import depthwise_and_shortcut
from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import load_dataset, parted
from tvm_mpq.calibrate.sensitivity import Loss, Trial
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.execute.interpreter import Sample
from tvm_mpq.pipeline.options import Options
from tvm_mpq.targets import local_row
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A CPU without any feature: w8a8 is the only integer candidate."""
    folder = tmp_path_factory.mktemp("poor")
    onnx.save(depthwise_and_shortcut(9, 37), str(folder / "net.onnx"))
    lab = Lab(folder / "net.onnx", folder / "kernels", target=dataclasses.replace(local_row(), isa_features=()))
    assert {c for n in lab.graph.weighted() for c in n.candidates} == {"fp32", "w8a8"}
    return lab


def test_ranges_serve_every_precision_offered(poor: Lab, tmp_path: Path) -> None:
    """Also those that are no candidates here, because the 8-bit code serves them as fast."""
    with LatencyDatabase(tmp_path / "latency.db") as db:
        options = Options(poor.model, precisions=["w3a5", "w2a2"], observer="minmax")
        learner = learn.Learner(poor.prepared, db, options, KernelStore(tmp_path, poor.prepared.tvm_target_attrs))
        tensors = learner.ranges(poor.interpreter, poor.data)
        assert learner.ranges(poor.interpreter, poor.data) == tensors  # as stored
    plan = dataclasses.replace(poor.plan("w2a2", {poor.names[0]: "w3a5"}), tensors=tensors)
    assert all([q.bits for q in quants] == [8, 5, 2] for quants in tensors.values())
    for got, wanted in zip(poor.interpret(plan), poor.define(plan), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("changed", ["calibration_samples", "rounding_samples", "sensitivity_samples"])
def test_losses_are_known_for_the_samples_they_stand_on_alone(
    poor: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Ranges and rounding see other samples than losses are measured on."""
    runs: list[int] = []

    def measured(*_: object, **more: Any) -> dict[tuple[str, str], Loss]:
        runs.append(1)
        more["on_sample"](10**6, {})
        return {}

    monkeypatch.setattr(learn, "measure_losses", measured)
    monkeypatch.setattr(learn, "_rounded", lambda todo, *_: todo)
    store = KernelStore(tmp_path / "kernels", poor.prepared.tvm_target_attrs)
    first = Options(poor.model)
    with LatencyDatabase(tmp_path / "latency.db") as db:
        for options in (first, first, dataclasses.replace(first, **{changed: 3})):
            learner = learn.Learner(poor.prepared, db, options, store)
            learner.losses(poor.interpreter, poor.plan("fp32"), parted(poor.data, 128))
    assert len(runs) == 2


def test_losses_are_measured_on_other_samples_than_weights_are_rounded_on(
    poor: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[float]] = {}

    def first_numbers(samples: Sequence[Sample]) -> list[float]:
        return [float(next(iter(sample.values())).flat[0]) for sample in samples]

    def rounded(todo: list[Trial], *more: Any) -> list[Trial]:
        seen["rounded"] = first_numbers(more[3].samples)
        return todo

    def measured(_: object, __: object, ___: object, samples: Sequence[Sample], *____: object, **_____: object) -> Any:
        seen["measured"] = first_numbers(samples)
        return {}

    monkeypatch.setattr(learn, "measure_losses", measured)
    monkeypatch.setattr(learn, "_rounded", rounded)
    name, (shape, _) = next(iter(poor.prepared.inputs.items()))
    images = np.random.default_rng(0).normal(size=(40, *shape[1:])).astype(np.float32)
    data = load_dataset({name: images}, poor.prepared.inputs)
    store = KernelStore(tmp_path / "kernels", poor.prepared.tvm_target_attrs)
    options = Options(poor.model, rounding_samples=9, sensitivity_samples=31)
    with LatencyDatabase(tmp_path / "latency.db") as db:
        learner = learn.Learner(poor.prepared, db, options, store)
        learner.losses(poor.interpreter, poor.plan("fp32"), parted(data, 9))
    assert len(seen["rounded"]) == 9 and len(seen["measured"]) == 31
    assert not set(seen["rounded"]) & set(seen["measured"])


def test_a_range_that_nobody_offered_is_refused_with_what_there_is(poor: Lab) -> None:
    with pytest.raises(InvalidValueError) as caught:
        poor.steps(poor.plan("w2a3"))
    text = str(caught.value)
    assert "no 3 bit range" in text and "(it has: 8)" in text and "3 bit activations offered" in text
    assert "\n" not in text
