"""Bits that are learned: who needs few gets few, what costs more buys fewer, and all readers of a tensor agree."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mpq_testing.lab import Lab
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.numerics.affine import dequantize, quantize, quantize_weight
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import StoredValue
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.training import bit_search
from tvm_mpq.training.bit_search import BitReading, search_bits
from tvm_mpq.training.checkpoint import Checkpoint
from tvm_mpq.training.gated_network import BitOffer, GatedNetwork
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.settings import BitSearchSettings

Labs = Callable[[str], Lab]

BITS = (2, 4, 8)
QUICK = BitSearchSettings(weakest=0.01, strongest=10.0, updates=80, batch=8, gate_rate=0.2)


@pytest.fixture(scope="module")
def lab(training_lab: Labs) -> Lab:
    return training_lab("two_consumers")


def offer_of(graph: Graph) -> BitOffer:
    """Bit operations of all pairs."""
    nodes = list(graph.weighted())
    bits = np.array(BITS, float)
    return BitOffer(
        {n.name: BITS for n in nodes},
        {graph.quant_root(n.inputs[0]): BITS for n in nodes},
        {n.name: n.conv.macs * np.outer(bits, bits) for n in nodes},
    )


def data_of(graph: Graph, count: int = 32) -> Dataset:
    rng = np.random.default_rng(3)
    shapes = {name: graph.tensors[name].shape[1:] for name in graph.inputs}
    return Dataset({n: rng.standard_normal((count, *s), dtype=np.float32) for n, s in shapes.items()}, None, 1)


def learn(
    lab: Lab, graph: Graph | None = None, settings: BitSearchSettings = QUICK, **more: object
) -> list[BitReading]:
    graph = graph or lab.graph
    features = lab.prepared.features
    return search_bits(graph, lab.plan("fp32"), features, data_of(graph), offer_of(graph), settings, **more)  # type: ignore[arg-type]


def operations(lab: Lab, reading: BitReading) -> float:
    nodes = {n.name: n for n in lab.graph.weighted()}
    return sum(nodes[n].conv.macs * p.weight_bits * p.activation_bits for n, p in reading.precisions.items())


@pytest.fixture(scope="module")
def found(lab: Lab) -> list[BitReading]:
    return learn(lab)


def test_from_the_most_bits_to_few(lab: Lab, found: list[BitReading]) -> None:
    assert {str(p) for p in found[0].precisions.values()} == {"w8a8"} and found[0].strength == 0
    assert operations(lab, found[-1]) < 0.2 * operations(lab, found[0])
    assert [r.strength for r in found] == sorted(r.strength for r in found)
    assert all(a.precisions != b.precisions for a, b in itertools.pairwise(found))
    assert len(found) > 5


def test_readers_of_a_tensor_agree(lab: Lab, found: list[BitReading]) -> None:
    left, right = (n for n in lab.graph.weighted() if n.name in ("left", "right"))
    assert left.inputs == right.inputs
    for reading in found:
        assert reading.precisions["left"].activation_bits == reading.precisions["right"].activation_bits
    assert any(reading.precisions["left"] != reading.precisions["right"] for reading in found)


def test_a_stronger_regulariser_leaves_fewer_bit_operations(lab: Lab) -> None:
    left = [
        operations(
            lab, learn(lab, settings=dataclasses.replace(QUICK, weakest=strength, strongest=strength, updates=40))[-1]
        )
        for strength in (1e-4, 0.3, 100.0)
    ]
    assert left[0] > left[1] > left[2]


def test_who_is_insensitive_gets_few_bits(lab: Lab) -> None:
    """A weight of -1, 0 and 1 times a scale is the same at 2 bits as at 8; its twin's is not."""
    rng = np.random.default_rng(0)

    def plain(weight: np.ndarray) -> np.ndarray:
        return (rng.integers(-1, 2, weight.shape) * np.abs(weight).mean()).astype(np.float32)

    nodes = [dataclasses.replace(n, weight=plain(n.weight)) if n.name == "left" else n for n in lab.graph.nodes]
    graph = dataclasses.replace(lab.graph, nodes=tuple(nodes))
    readings = learn(lab, graph)
    assert readings[-1].precisions["right"].weight_bits < 8  # for that, the regulariser has to be stronger
    closed = next(r for r in readings if r.precisions["left"].weight_bits == 2)
    assert closed.precisions["right"].weight_bits == 8 and closed.strength < QUICK.strongest


def test_the_same_again(lab: Lab) -> None:
    short = dataclasses.replace(QUICK, weakest=0.3, updates=50)
    once, again = (learn(lab, settings=short) for _ in range(2))
    assert once == again and len(once) > 2
    assert learn(lab, settings=dataclasses.replace(short, seed=1)) != once


def test_it_goes_on_where_it_was_killed(lab: Lab, tmp_path: Path) -> None:
    short = dataclasses.replace(QUICK, weakest=0.3, updates=50)
    states = [Checkpoint(tmp_path / name, "this") for name in ("whole", "state")]
    state = states[1]
    whole = learn(lab, settings=short, checkpoint=states[0])
    told: list[int] = []

    def killed(done: int, of: int, what: str) -> None:
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(lab, settings=short, checkpoint=state, progress=killed)
    again = learn(lab, settings=short, checkpoint=state, progress=lambda done, of, what: told.append(done))
    assert told[0] == bit_search.SAVED_EVERY + 1 and again == whole
    held = [checkpoint.load() for checkpoint in states]  # behind 40 updates
    assert all(torch.equal(held[0]["gates"][name], gates) for name, gates in held[1]["gates"].items())  # type: ignore[index]
    other = Checkpoint(tmp_path / "state", "other")
    learn(lab, settings=short, checkpoint=other, progress=lambda done, of, what: told.append(done))
    assert told[-short.updates :][0] == 1  # another search's state is not taken up


def test_the_fp32_network_runs_once_on_each_sample(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    run = QuantizedNetwork.forward

    def counted(self: QuantizedNetwork, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not isinstance(self, GatedNetwork):
            rows.append(len(inputs[0]))
        return run(self, *inputs)

    monkeypatch.setattr(QuantizedNetwork, "forward", counted)
    learn(lab, settings=dataclasses.replace(QUICK, updates=30))
    assert sum(rows) == 32 + 4  # and two samples, together and alone, to see that batches may be run


def test_large_networks_learn_from_fewer_samples_an_update() -> None:
    settings = BitSearchSettings()
    assert [settings.batch_of(macs) for macs in (1, 41_000_000, 150_000_000, 300_000_000, 10**10)] == [32, 32, 10, 5, 4]
    assert BitSearchSettings(batch=2).batch_of(10**10) == 2


def test_settled_gates_are_the_kernels_bits(lab: Lab) -> None:
    """What an operator computes with is its weight and input as plans store them at the bits chosen."""
    node = next(n for n in lab.graph.weighted() if n.name == "right")
    network = GatedNetwork(lab.graph, lab.plan("fp32"), lab.prepared.features, offer_of(lab.graph)).eval()
    for key, gates in network._gates.items():
        if key[1] in (node.name, lab.graph.quant_root(node.inputs[0])):
            gates.logits.data = torch.tensor([9.0, -9.0])  # 4 bits
    network.settle()
    with torch.no_grad():
        held = network.values(torch.from_numpy(data_of(lab.graph, 2).arrays["x"]))
    x = held[StoredValue(node.inputs[0], FLOAT_BITS)].data.numpy()
    stored = lab.plan("fp32").quant(lab.graph.quant_root(node.inputs[0]), 4)
    codes, scales = quantize_weight(node.weight, 4)
    y = dequantize(quantize(x, stored), stored) @ (codes[:, 0, 0] * scales[:, None]).T + node.bias
    got = held[StoredValue(node.output, FLOAT_BITS)].data.numpy()
    np.testing.assert_allclose(got, np.maximum(y, 0), rtol=1e-4, atol=1e-5 * np.abs(y).max())


def test_the_expected_cost_and_its_gradient(lab: Lab) -> None:
    network = GatedNetwork(lab.graph, lab.plan("fp32"), lab.prepared.features, offer_of(lab.graph))
    gates = next(iter(network.gates))
    for every in network.gates:
        every.logits.data = torch.tensor([30.0, 30.0])
    assert float(network.cost().detach()) == pytest.approx(1.0)
    for every in network.gates:
        every.logits.data = torch.tensor([-30.0, 30.0])
    assert float(network.cost().detach()) == pytest.approx(4 / 64)
    for every in network.gates:
        every.logits.data = torch.tensor([0.2, -0.4])
    network.cost().backward()
    assert gates.logits.grad is not None
    for k in range(2):
        sides = []
        for sign in (1, -1):
            gates.logits.data = torch.tensor([0.2, -0.4])
            gates.logits.data[k] += sign * 0.05
            sides.append(float(network.cost().detach()))
        # float32 sums and a step of 0.05: both are below a hundredth of the slope
        assert float(gates.logits.grad[k]) == pytest.approx((sides[0] - sides[1]) / 0.1, rel=0.02)


def test_progress_and_refusals(lab: Lab) -> None:
    heard: list[tuple[int, int, str]] = []
    short = dataclasses.replace(QUICK, updates=2)
    learn(lab, settings=short, progress=lambda *told: heard.append(told))
    assert heard == [(1, 2, "learning bits"), (2, 2, "learning bits")]
    one = data_of(lab.graph, 1)
    with pytest.raises(DataError, match=r"two samples or more \(got 1\)"):
        search_bits(lab.graph, lab.plan("fp32"), lab.prepared.features, one, offer_of(lab.graph), short)
    with pytest.raises(InvalidValueError, match=r"weakest must be at most strongest, 0.5 \(got 1\)"):
        BitSearchSettings(weakest=1.0, strongest=0.5)
    with pytest.raises(InvalidValueError, match=r"gate_rate must be above 0 \(got 0\)"):
        BitSearchSettings(gate_rate=0.0)
