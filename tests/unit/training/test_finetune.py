"""Fine-tuning on a small network: it learns, what it exports is what it trained, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpq_testing.lab import Lab, run_strangers
from mpq_testing.slowly import slow_but
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.errors import DataError, InvalidValueError, UnsupportedModelError
from tvm_mpq.execute import network
from tvm_mpq.passes.lowering import lower
from tvm_mpq.training.augment import Augmentation
from tvm_mpq.training.finetune import Finetuned, finetune
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.settings import FinetuneSettings

Labs = Callable[[str], Lab]

QUICK = FinetuneSettings(
    epochs=3, batch=16, weight_rate=0.01, step_rate=0.003, mix=False, held_share=0.25, checkpoint_minutes=0
)


def data_of(lab: Lab, count: int = 48, labels: bool = False) -> Dataset:
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.standard_normal((count, *lab.graph.tensors[name].shape[1:]), dtype=np.float32)
        for name in lab.graph.inputs
    }
    return Dataset(arrays, rng.integers(0, 10, count) if labels else None, 1)


def train(lab: Lab, precision: str = "w2a4", settings: FinetuneSettings = QUICK, **more: object) -> Finetuned:
    plan = lab.plan(precision, {lab.names[0]: "w8a8"})
    return finetune(lab.graph, plan, lab.prepared.features, data_of(lab), settings, **more)  # type: ignore[arg-type]


def results(found: Finetuned) -> tuple[object, ...]:
    return found.plan, found.codes.digest, found.epochs[1:], found.kept


def forward(lab: Lab, found: Finetuned, x: np.ndarray) -> np.ndarray:
    trained = QuantizedNetwork(lab.graph, found.plan, lab.prepared.features, found.codes).eval()
    with torch.no_grad():
        return trained(torch.from_numpy(x))[0].numpy()


@pytest.fixture(scope="module")
def lab(training_lab: Labs) -> Lab:
    return training_lab("residual")


@pytest.fixture(scope="module")
def found(lab: Lab) -> Finetuned:
    return train(lab, settings=dataclasses.replace(QUICK, epochs=8))


def test_it_learns(found: Finetuned) -> None:
    losses = [e.held_loss for e in found.epochs]
    assert len(losses) == 9 and [e.epoch for e in found.epochs] == list(range(9))
    assert min(losses) < 0.6 * losses[0]
    assert losses[found.kept] == min(losses)


def test_the_export_is_the_trained_network(lab: Lab, found: Finetuned, tmp_path: Path) -> None:
    """The interpreter's kernels and the built library give the trained forward's outputs."""
    held_before = found.epochs[found.kept]
    steps = lower(lab.graph, found.plan, lab.prepared.features, found.codes)
    wanted = [forward(lab, found, s["x"]) for s in lab.samples]
    for i, expected in enumerate(wanted):
        np.testing.assert_array_equal(list(lab.values_of(steps, i).values())[-1], expected)
    mod = network.realize(lab.prepared, found.plan, found.codes)
    built = network.build(lab.prepared, found.plan, tmp_path / "model.so", mod)
    np.savez(tmp_path / "inputs.npz", lab.samples[0]["x"])
    job = {"library": str(built.path), "inputs": str(tmp_path / "inputs.npz"), "outputs": str(tmp_path / "out.npz")}
    ((output,),) = run_strangers([job], tmp_path)
    np.testing.assert_array_equal(output, wanted[0])
    assert held_before.held == 12


def test_codes_and_plan_are_those_of_the_best_epoch(lab: Lab, found: Finetuned) -> None:
    """Evaluated again on the samples kept aside, the export gives the loss that was seen while training."""
    from tvm_mpq.training.course import split
    from tvm_mpq.training.objective import Objective

    settings = dataclasses.replace(QUICK, epochs=8)
    rows = split(48, settings)[1].numpy()
    x = data_of(lab).arrays["x"][rows]
    teacher = QuantizedNetwork(lab.graph, lab.plan("fp32"), lab.prepared.features).eval()
    with torch.no_grad():
        wanted = teacher(torch.from_numpy(x))
    loss = Objective(True, settings.temperature, 0).loss((torch.from_numpy(forward(lab, found, x)),), wanted, None)
    assert float(loss) == pytest.approx(found.epochs[found.kept].held_loss, rel=1e-5)


def test_weights_biases_and_steps_all_moved(lab: Lab, found: Finetuned) -> None:
    plan = lab.plan("w2a4", {lab.names[0]: "w8a8"})
    before = QuantizedNetwork(lab.graph, plan, lab.prepared.features).learned_codes()
    assert set(before) == set(found.codes)
    for key, old in before.items():
        new = found.codes[key]
        assert (new.codes != old.codes).any() and (new.scales != old.scales).mean() > 0.8, key
        assert new.bias is not None and (new.bias != old.bias).mean() > 0.8, key
    assert found.plan != plan and found.plan.operators == plan.operators


def test_equal_calls_give_equal_results(lab: Lab) -> None:
    assert results(train(lab)) == results(train(lab))
    assert results(train(lab, settings=dataclasses.replace(QUICK, seed=1))) != results(train(lab))


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_an_interrupted_training_goes_on(lab: Lab, tmp_path: Path, stop: int) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(lab, checkpoint=path, progress=interrupt)
    calls: list[int] = []
    resumed = train(lab, checkpoint=path, progress=lambda done, total, what: calls.append(done))
    assert results(resumed) == results(train(lab))
    assert calls == list(range(max(1, stop), 10))[: len(calls)] and len(calls) == 10 - max(1, stop)
    again = train(lab, checkpoint=path, progress=lambda done, total, what: calls.append(done))
    assert results(again) == results(resumed) and again.seconds_per_epoch == 0 and len(calls) == 10 - max(1, stop)


def test_another_training_begins_anew(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "state"
    train(lab, checkpoint=path)
    other = train(lab, "w4a4", checkpoint=path)
    assert results(other) == results(train(lab, "w4a4"))
    path.write_bytes(path.read_bytes()[:1000])  # as a full disk may leave it
    assert results(train(lab, "w4a4", checkpoint=path)) == results(other)


def test_codes_are_where_it_begins(lab: Lab, found: Finetuned) -> None:
    """Epoch 0 under given codes is the network of these codes."""
    settings = dataclasses.replace(QUICK, epochs=1)
    plan, features = found.plan, lab.prepared.features
    again = finetune(lab.graph, plan, features, data_of(lab), settings, codes=found.codes)
    assert again.epochs[0].held_loss == pytest.approx(found.epochs[found.kept].held_loss, rel=1e-5)


def test_labels_count_where_asked(lab: Lab) -> None:
    plan, features, data = lab.plan("w4a4"), lab.prepared.features, data_of(lab, labels=True)
    without = finetune(lab.graph, plan, features, data, QUICK)
    with_labels = finetune(lab.graph, plan, features, data, dataclasses.replace(QUICK, label_weight=1.0))
    assert with_labels.epochs[0].held_loss > without.epochs[0].held_loss  # the cross entropy of random labels
    assert with_labels.codes.digest != without.codes.digest


NETWORKS = ["multilayer", "transposed", "float_middle", "two_outputs", "activations"]


@pytest.mark.parametrize("name", slow_but(NETWORKS, *NETWORKS[:-1]))
def test_other_networks_learn(training_lab: Labs, name: str) -> None:
    lab = training_lab(name)
    plan = lab.plan("w4a4")
    settings = dataclasses.replace(QUICK, epochs=6)
    found = finetune(lab.graph, plan, lab.prepared.features, data_of(lab), settings)
    losses = [e.held_loss for e in found.epochs]
    assert min(losses) < 0.97 * losses[0]
    assert len(found.codes) == len(lab.names)


def test_float_operators_stay(lab: Lab) -> None:
    plan = lab.plan("w4a4", {lab.names[2]: "fp32"})
    found = finetune(lab.graph, plan, lab.prepared.features, data_of(lab), dataclasses.replace(QUICK, epochs=1))
    assert {name for name, _ in found.codes} == set(lab.names) - {lab.names[2]}


def test_nothing_to_train_is_said(lab: Lab) -> None:
    with pytest.raises(InvalidValueError, match="no integer operator"):
        finetune(lab.graph, lab.plan("fp32"), lab.prepared.features, data_of(lab), QUICK)


def test_one_sample_is_too_few(lab: Lab) -> None:
    with pytest.raises(DataError, match="two samples or more"):
        finetune(lab.graph, lab.plan("w8a8"), lab.prepared.features, data_of(lab, 1), QUICK)


def test_divergence_is_said(lab: Lab) -> None:
    with pytest.raises(InvalidValueError, match="diverged in epoch"):
        train(lab, settings=dataclasses.replace(QUICK, step_rate=1e9, weight_rate=1e9))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 0}, {"weight_rate": 0.0}, {"temperature": float("nan")}, {"label_weight": -1.0},
     {"held_share": 1.0}],
)  # fmt: skip
def test_settings_outside_their_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        FinetuneSettings(**wrong)  # type: ignore[arg-type]


def test_a_network_that_mixes_its_batch_is_refused(training_lab: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = training_lab("multilayer")
    real = QuantizedNetwork.forward
    mixing = lambda self, *x: tuple(y - y.mean(dim=0) for y in real(self, *x))  # noqa: E731
    monkeypatch.setattr(QuantizedNetwork, "forward", mixing)
    with pytest.raises(UnsupportedModelError, match="in batches"):
        finetune(lab.graph, lab.plan("w8a8"), lab.prepared.features, data_of(lab), QUICK)


def test_augmentation_is_a_matter_of_settings(lab: Lab) -> None:
    with_it, without = (
        train(lab, settings=dataclasses.replace(QUICK, augment=given, mix=given)) for given in (True, False)
    )
    assert with_it.augmentation == Augmentation(mirror=True, shift=True, mix=True, axes=(2, 3))
    assert without.augmentation == Augmentation()
    assert with_it.codes.digest != without.codes.digest


@pytest.mark.parametrize("changed", [{"mix": False}, {"mix": True, "label_weight": 0.1}])
def test_nothing_is_mixed_where_it_is_not_wanted_or_labels_are_learned_from(lab: Lab, changed: dict[str, Any]) -> None:
    settings = dataclasses.replace(QUICK, epochs=1, **changed)
    plan = lab.plan("w2a4", {lab.names[0]: "w8a8"})
    found = finetune(lab.graph, plan, lab.prepared.features, data_of(lab, labels=True), settings)
    assert not found.augmentation.mix
