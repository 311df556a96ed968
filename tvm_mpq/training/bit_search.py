"""Differentiable search for bits: gates learn to stay like the fp32 network at what bits cost. No labels are needed.

The first step of Free Bits (Rutishauser et al., arXiv 2307.02894), with gates of Bayesian Bits (`training.gates`):

    loss = KL(fp32 || gated) + strength * expected cost / cost of the most bits        (relative squared error without
                                                                                         classes)

One run meets a strength that rises a little at every update: gates close one after the other, each when it costs more
than it is worth, so that the run gives plans from the most bits to the fewest. Weights stay as they are, as in the
post-training setting of Bayesian Bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.execute.accuracy import classifies
from tvm_mpq.passes.graph import Graph
from tvm_mpq.schema import Plan, Precision, Progress
from tvm_mpq.training.batches import answers_of
from tvm_mpq.training.checkpoint import Checkpoint
from tvm_mpq.training.course import generator
from tvm_mpq.training.gated_network import BitOffer, GatedNetwork
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.objective import Objective
from tvm_mpq.training.settings import BitSearchSettings

SAVED_EVERY = 20
"""Updates between two states on disk."""


@dataclass(frozen=True)
class BitReading:
    """What the gates say at one time. strength: of the regulariser then. precisions: of operators that have gates."""

    strength: float
    precisions: Mapping[str, Precision]


def search_bits(
    graph: Graph,
    plan: Plan,
    features: frozenset[str],
    data: Dataset,
    offer: BitOffer,
    settings: BitSearchSettings,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[BitReading]:
    """The bits chosen as the regulariser grows, each time that one changed; the first are the most everywhere.

    Ends before the last update when there is nothing left to close. Equal calls give equal readings on one machine.

    Parameters
    ----------
    plan
        Has ranges of the tensors in `offer` at all their bits; its precisions do not matter.
    data
        Samples named as the graph's inputs; labels are not used.
    checkpoint
        Holds the state every `SAVED_EVERY` updates; a call that finds that of the same search goes on behind it, and
        gives what one that was not stopped gives.

    Raises
    ------
    UnsupportedModelError
        If an operator has no form in PyTorch, or results depend on the batch.
    DataError
        If there are fewer than two samples, or the float network gives NaN or infinity.
    InvalidValueError
        If learning diverged.
    """
    network = GatedNetwork(graph, plan, features, offer)
    inputs = _inputs(graph, data, settings)
    wanted = answers_of(QuantizedNetwork(graph, float_plan(graph, plan), features).eval(), inputs, settings.batch)
    objective = Objective(classifies(graph), temperature=1.0, label_weight=0.0)
    readings = [BitReading(0.0, network.precisions())]
    logits = [gates.logits for gates in network.gates if len(gates.bits) > 1]
    if not logits:
        return readings
    optimizer = torch.optim.Adam(logits, lr=settings.gate_rate)
    state = None if checkpoint is None else checkpoint.load()
    if state is not None:
        network.load_gates(state["gates"])
        optimizer.load_state_dict(state["optimizer"])
        readings = _readings(state["readings"])
    size = min(settings.batch_of(sum(node.conv.macs for node in graph.weighted()) // data.batch), len(inputs[0]))
    for update in range(0 if state is None else state["updates"], settings.updates):
        strength = settings.strength(update)
        chance = generator(settings.seed, update)
        rows = torch.randint(len(inputs[0]), (size,), generator=chance)
        batch = [x[rows] for x in inputs]
        network.draw(chance)
        answers = tuple(y[rows] for y in wanted)
        loss = objective.loss(network(*batch), answers, None) + strength * network.cost()
        if not torch.isfinite(loss):
            raise InvalidValueError(f"learning bits diverged; take a lower rate than gate_rate={settings.gate_rate:g}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress:
            progress(update + 1, settings.updates, "learning bits")
        found = network.precisions()
        if found != readings[-1].precisions:
            readings.append(BitReading(strength, found))
        if all(gates.chosen() == gates.bits[0] for gates in network.gates):
            break
        if checkpoint is not None and (update + 1) % SAVED_EVERY == 0:
            gates, moments = network.gates_state(), optimizer.state_dict()
            checkpoint.save({"updates": update + 1, "gates": gates, "optimizer": moments, "readings": _rows(readings)})
    return readings


def _rows(readings: list[BitReading]) -> list[Any]:
    """As a checkpoint holds them."""
    return [[r.strength, {name: str(p) for name, p in r.precisions.items()}] for r in readings]


def _readings(rows: list[Any]) -> list[BitReading]:
    return [BitReading(s, {name: Precision.parse(text) for name, text in found.items()}) for s, found in rows]


def _inputs(graph: Graph, data: Dataset, settings: BitSearchSettings) -> list[Tensor]:
    """float32[N, ...] of each input: whole runs, evenly spaced."""
    some = data.head(max(1, settings.samples // data.batch))
    inputs = [torch.from_numpy(np.ascontiguousarray(some.arrays[name])) for name in graph.inputs]
    if len(inputs[0]) < 2:
        raise DataError(f"learning bits needs two samples or more (got {len(inputs[0])})")
    return inputs
