"""Rounding learned block by block: what the blocks are, which errors count, and that learning is an improvement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mpq_testing.lab import Lab
from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.rounding import float_side, round_plan
from tvm_mpq.errors import InvalidValueError, UnsupportedModelError
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.lowering import KernelStep, StoredValue, lower, made_by
from tvm_mpq.schema import FLOAT_BITS, Plan, Precision
from tvm_mpq.training.batched_walk import BatchedWalk
from tvm_mpq.training.blocks import JOINED, blocks, learns, read_after
from tvm_mpq.training.fisher import error_factors
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.reconstruction import Reconstructed, reconstruct
from tvm_mpq.training.settings import ReconstructionSettings

Labs = Callable[[str], Lab]

QUICK = ReconstructionSettings(updates=30, most_batch=16, fisher_samples=16)


def data_of(lab: Lab, count: int = 64) -> Dataset:
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.standard_normal((count, *lab.graph.tensors[name].shape[1:]), dtype=np.float32)
        for name in lab.graph.inputs
    }
    return Dataset(arrays, None, 1)


def inputs_of(lab: Lab, count: int = 64) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in data_of(lab, count).arrays.values()]


def coarse(lab: Lab) -> Plan:
    return lab.plan("w2a4", {lab.names[0]: "w8a8"})


def closed(lab: Lab, plan: Plan) -> WeightCodes:
    features = lab.prepared.features
    wide = float_side(lab.graph, plan, features, data_of(lab).samples())
    return round_plan(lab.graph, lab.interpreter, plan, features, wide)


def learn(lab: Lab, settings: ReconstructionSettings = QUICK, **more: object) -> WeightCodes:
    plan = coarse(lab)
    return reconstruct(lab.graph, plan, lab.prepared.features, data_of(lab), settings, **more)  # type: ignore[arg-type]


def errors(lab: Lab, codes: WeightCodes | None) -> float:
    """Mean squared error of the outputs to fp32, on samples that nobody has seen."""
    features, x = lab.prepared.features, [x[64:] for x in inputs_of(lab, 256)]
    with torch.no_grad():
        wanted = QuantizedNetwork(lab.graph, lab.plan("fp32"), features).eval()(*x)[0]
        found = QuantizedNetwork(lab.graph, coarse(lab), features, codes).eval()(*x)[0]
    return float((found - wanted).square().mean())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two residual blocks; what they give a classifier is of a size that leaves it in doubt."""
    net = OnnxNet({"image": (1, 3, 8, 8)})
    y = net.relu(net.conv("image", 3, 16, name="stem"))
    for i in (1, 2):
        inner = net.relu(net.conv(y, 16, 16, name=f"first{i}"))
        y = net.relu(net.op("Add", net.conv(inner, 16, 16, name=f"second{i}"), y))
    folder = tmp_path_factory.mktemp("blocks")
    onnx.save(net.model(net.classifier(y, 16)), str(folder / "net.onnx"))
    return Lab(folder / "net.onnx", folder / "kernels", offered=[Precision.parse(p) for p in ("w8a8", "w2a4")])


@pytest.fixture(scope="module")
def first(lab: Lab) -> WeightCodes:
    return closed(lab, coarse(lab))


def test_blocks_end_where_one_tensor_goes_on(lab: Lab) -> None:
    steps = lower(lab.graph, coarse(lab), lab.prepared.features)
    found = blocks(lab.graph, steps)
    assert [i for block in found for i in block] == list(range(len(steps)))
    live = read_after(steps, lab.graph.inputs)
    assert all(len(live[block.start]) == 1 for block in found)
    counts = [sum(learns(steps[i]) for i in block) for block in found]
    assert sum(counts) == len(lab.names) and len(counts) > 1 and max(counts) <= JOINED
    for block in found:  # an addition stands in the block of what it adds
        inside = [steps[i] for i in block]
        residuals = [s for s in inside if isinstance(s, KernelStep) and learns(s) and len(s.inputs) > 1]
        known = {made_by(s) for s in inside} | live[block.start]
        assert all(set(s.inputs) <= known for s in residuals)


def test_where_nothing_can_be_cut_operators_stand_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = lower(lab.graph, coarse(lab), lab.prepared.features)
    monkeypatch.setattr("tvm_mpq.training.blocks.LONGEST", 1)
    monkeypatch.setattr("tvm_mpq.training.blocks.JOINED", 1)
    found = blocks(lab.graph, steps)
    assert [i for block in found for i in block] == list(range(len(steps)))
    assert max(sum(learns(steps[i]) for i in block) for block in found) == 1


def test_a_walk_in_pieces_is_the_whole_run(lab: Lab, first: WeightCodes) -> None:
    network = QuantizedNetwork(lab.graph, coarse(lab), lab.prepared.features, first).eval()
    x = inputs_of(lab, 21)  # more than are run at once
    walk = BatchedWalk(network, x)
    with torch.no_grad():
        wanted = network.values(*x)
    for block in blocks(lab.graph, network.steps):
        walk.advance(block.stop)
        for value in read_after(network.steps, lab.graph.inputs)[block.stop]:
            torch.testing.assert_close(walk.value(value).data, wanted[value].data, rtol=0, atol=0)
            assert walk.value(value).quant == wanted[value].quant


def test_errors_count_by_what_they_change(lab: Lab) -> None:
    """|e L|^2 is the curvature of the KL divergence: it foretells how much a small error of a tensor changes."""
    features, x = lab.prepared.features, inputs_of(lab, 32)
    teacher = QuantizedNetwork(lab.graph, lab.plan("fp32"), features).eval().requires_grad_(False)
    tensor = next(n for n in lab.graph.nodes if n.name == lab.names[-2]).output
    factor = error_factors(teacher, x, [tensor], 0)[tensor]
    value = StoredValue(tensor, FLOAT_BITS)
    place = next(i for i, step in enumerate(teacher.steps) if made_by(step) == value) + 1
    rng = np.random.default_rng(0)

    def divergence(direction: torch.Tensor) -> float:
        logits = []
        for share in (0.0, 0.05):
            held = teacher.start(x)
            for i in range(len(teacher.steps)):
                teacher.run_step(i, held, {})
                if i + 1 == place:
                    held[value].data.add_(share * direction)
            logits.append(held[StoredValue(lab.graph.outputs[0], FLOAT_BITS)].data.flatten(1).log_softmax(1))
        return float((logits[0].exp() * (logits[0] - logits[1])).sum(dim=1).mean())

    directions = torch.from_numpy(rng.standard_normal((24, len(factor)), dtype=np.float32))
    directions = directions / directions.norm(dim=1, keepdim=True)
    real = np.array([divergence(d) for d in directions])
    told = ((directions @ factor) ** 2).sum(dim=1).numpy()
    assert np.corrcoef(real, told)[0, 1] > 0.5
    assert abs(float((factor @ factor.T).diagonal().mean()) - 1) < 1e-4


def test_learned_rounding_is_nearer_to_fp32(lab: Lab, first: WeightCodes) -> None:
    told: list[Reconstructed] = []
    learned = learn(lab, dataclasses.replace(QUICK, updates=200, most_batch=32), seen=told.append)
    assert [name for block in told for name in block.operators] == lab.names
    assert all(block.error <= 1 for block in told) and min(block.error for block in told) < 0.95
    nearest, closed_form, found = (errors(lab, codes) for codes in (None, first, learned))
    assert found < 0.95 * closed_form < 0.1 * nearest
    assert set(learned) == set(first)
    for (name, bits), weight in learned.items():
        low, high = weight_range(bits)
        assert low <= weight.codes.min() and weight.codes.max() <= high and weight.bits == bits, name
    assert any((learned[key].codes != first[key].codes).any() for key in first)


def test_kernels_compute_what_was_learned(lab: Lab, first: WeightCodes) -> None:
    learned = learn(lab)
    steps = lower(lab.graph, coarse(lab), lab.prepared.features, learned)
    network = QuantizedNetwork(lab.graph, coarse(lab), lab.prepared.features, learned).eval()
    for i, sample in enumerate(lab.samples):
        with torch.no_grad():
            wanted = network(*(torch.from_numpy(x) for x in sample.values()))[0].numpy()
        np.testing.assert_array_equal(list(lab.values_of(steps, i).values())[-1], wanted)


def test_blocks_that_become_no_better_keep_their_codes(lab: Lab) -> None:
    told: list[Reconstructed] = []
    wild = [dataclasses.replace(QUICK, updates=3, weight_rate=rate) for rate in (3.0, 5.0)]
    assert learn(lab, wild[0], seen=told.append).digest == learn(lab, wild[1], seen=told.append).digest
    assert {block.error for block in told} == {1.0}


def test_equal_calls_give_equal_codes_and_other_seeds_others(lab: Lab) -> None:
    found = learn(lab)
    assert learn(lab).digest == found.digest
    assert learn(lab, dataclasses.replace(QUICK, seed=1)).digest != found.digest


def test_an_interrupted_work_goes_on_behind_the_last_block(lab: Lab, first: WeightCodes, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == QUICK.updates + 5:
            raise KeyboardInterrupt

    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        learn(lab, checkpoint=path, progress=interrupt)
    calls: list[int] = []
    resumed = learn(lab, checkpoint=path, progress=lambda done, total, what: calls.append(done))
    assert calls[0] == QUICK.updates and calls[-1] % QUICK.updates == 0
    assert resumed.digest == learn(lab).digest


def test_divergence_is_said(lab: Lab, first: WeightCodes) -> None:
    with pytest.raises(InvalidValueError, match="diverged; take lower rates"):
        learn(lab, dataclasses.replace(QUICK, step_rate=1e9))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float_middle", "two_outputs", "activations"])
def test_other_networks_learn_too(training_lab: Labs, name: str) -> None:
    lab = training_lab(name)
    plan, features = lab.plan("w2a4"), lab.prepared.features
    told: list[Reconstructed] = []
    settings = dataclasses.replace(QUICK, updates=100, weight_rate=0.02, most_batch=24)
    found = reconstruct(lab.graph, plan, features, data_of(lab, 24), settings, seen=told.append)
    assert {name for name, _ in found} == set(lab.names) and min(block.error for block in told) < 1


def test_a_network_that_mixes_its_batch_is_refused(training_lab: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = training_lab("float_middle")
    real = QuantizedNetwork.forward
    mixing = lambda self, *x: tuple(y - y.mean(dim=0) for y in real(self, *x))  # noqa: E731
    monkeypatch.setattr(QuantizedNetwork, "forward", mixing)
    with pytest.raises(UnsupportedModelError, match="in batches"):
        learn(lab)


@pytest.mark.parametrize("wrong", [{"updates": 0}, {"fisher_samples": 0}, {"weight_rate": 0.0}, {"step_rate": -1.0}])
def test_settings_outside_their_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        ReconstructionSettings(**wrong)  # type: ignore[arg-type]


def test_fixed_weights_stay(lab: Lab, first: WeightCodes) -> None:
    key = next(key for key in first if key[0] == "first2")
    told: list[Reconstructed] = []
    found = learn(lab, fixed=WeightCodes({key: first[key]}), seen=told.append)
    assert found[key].digest == first[key].digest and set(found) == set(first)
    assert [name for block in told for name in block.operators] == [n for n in lab.names if n != "first2"]
