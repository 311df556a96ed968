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

import numpy as np
import torch
from torch import Tensor

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.execute.accuracy import classifies
from tvm_mpq.passes.graph import Graph
from tvm_mpq.schema import Plan, Precision, Progress
from tvm_mpq.training.batches import check_batches
from tvm_mpq.training.course import generator
from tvm_mpq.training.gated_network import BitOffer, GatedNetwork
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.objective import Objective
from tvm_mpq.training.settings import BitSearchSettings


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
) -> list[BitReading]:
    """The bits chosen as the regulariser grows, each time that one changed; the first are the most everywhere.

    Ends before the last update when there is nothing left to close. Equal calls give equal readings on one machine.

    Parameters
    ----------
    plan
        Has ranges of the tensors in `offer` at all their bits; its precisions do not matter.
    data
        Samples named as the graph's inputs; labels are not used.

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
    teacher = QuantizedNetwork(graph, float_plan(graph, plan), features).eval().requires_grad_(False)
    inputs = _inputs(graph, data, settings)
    check_batches(teacher, [x[:2] for x in inputs])
    objective = Objective(classifies(graph), temperature=1.0, label_weight=0.0)
    readings = [BitReading(0.0, network.precisions())]
    logits = [gates.logits for gates in network.gates if len(gates.bits) > 1]
    if not logits:
        return readings
    optimizer = torch.optim.Adam(logits, lr=settings.gate_rate)
    for update in range(settings.updates):
        strength = settings.strength(update)
        chance = generator(settings.seed, update)
        rows = torch.randint(len(inputs[0]), (min(settings.batch, len(inputs[0])),), generator=chance)
        batch = [x[rows] for x in inputs]
        network.draw(chance)
        loss = objective.loss(network(*batch), teacher(*batch), None) + strength * network.cost()
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
    return readings


def _inputs(graph: Graph, data: Dataset, settings: BitSearchSettings) -> list[Tensor]:
    """float32[N, ...] of each input: whole runs, evenly spaced."""
    some = data.head(max(1, settings.samples // data.batch))
    inputs = [torch.from_numpy(np.ascontiguousarray(some.arrays[name])) for name in graph.inputs]
    if len(inputs[0]) < 2:
        raise DataError(f"learning bits needs two samples or more (got {len(inputs[0])})")
    return inputs
