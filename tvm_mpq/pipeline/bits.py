"""Learning bits as a part of the jobs: the network, data and tables go in, bits of its operators come out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvm_mpq.errors import DataError
from tvm_mpq.passes.graph import Node
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.finetune import require_batch_axes
from tvm_mpq.pipeline.options import LATENCY, require_torch
from tvm_mpq.schema import Plan, Precision
from tvm_mpq.select.methods.learned_bits import LearnedBits, runnable
from tvm_mpq.select.problem import Problem
from tvm_mpq.tuning.database.results import ResultStore

if TYPE_CHECKING:
    from tvm_mpq.training.gated_network import BitOffer
    from tvm_mpq.training.settings import BitSearchSettings

VERSION = 1
"""Part of every stored key: raise it when equal settings give other bits."""

WHAT = f"method {LearnedBits.name}"


def require_what_searches(context: RunContext, methods: Collection[str]) -> None:
    """That what these methods need is there: seen at once, not after an hour of measuring.

    Raises
    ------
    MissingDependencyError
        If bits are to be learned and PyTorch is not installed.
    DataError
        If they are, and there are no real data, or an input has no batch axis.
    """
    if LearnedBits.name not in methods:
        return
    require_torch(WHAT)
    if context.data.synthetic:
        raise DataError(f"{WHAT} needs data of the network's own kind; give them with --data")
    require_batch_axes(context.data, WHAT)


class BitLearner:
    """Learns bits of one network's operators on its calibration data; what was learned once is kept in the database.

    plan: has the ranges of all tensors at all bits that are offered. Call it with the selection problem: that says
    which bits each operator has to choose from and, with `options.regulariser` latency, what they cost.
    """

    def __init__(self, context: RunContext, plan: Plan) -> None:
        self._context, self._plan = context, plan

    def __call__(self, problem: Problem) -> Sequence[Mapping[str, Precision]]:
        import torch

        from tvm_mpq.training.bit_search import search_bits
        from tvm_mpq.training.checkpoint import Checkpoint
        from tvm_mpq.training.settings import BitSearchSettings

        prepared, options, data = self._context.prepared, self._context.options, self._context.data
        offer, settings = self._offer(problem), BitSearchSettings(seed=options.seed)
        if options.updates is not None:
            settings = dataclasses.replace(settings, updates=options.updates)
        if not offer.weights:
            return [{}]
        store, key = ResultStore(self._context.db), self._key(offer, settings)
        rows = store.get("bits", key)
        if rows is None:
            options.tell("learning bits")
            data = dataclasses.replace(data, arrays=prepared.by_tensor(data.arrays))
            folder = Path(f"{self._context.db.store.path}.bits")
            folder.mkdir(parents=True, exist_ok=True)
            state = folder / f"{key[:32]}.pt"
            found = search_bits(
                prepared.graph,
                self._plan,
                prepared.features,
                data,
                offer,
                settings,
                options.progress,
                Checkpoint(state, f"{key} {torch.__version__} {torch.get_num_threads()}"),
            )
            rows = [{name: str(p) for name, p in reading.precisions.items()} for reading in found]
            store.put("bits", key, rows)
            state.unlink(missing_ok=True)
        return [{name: Precision.parse(text) for name, text in row.items()} for row in rows]

    def _key(self, offer: BitOffer, settings: BitSearchSettings) -> str:
        parts = (
            VERSION,
            self._context.prepared.loaded.fingerprint,
            self._context.data.fingerprint,
            sorted(self._plan.tensors.items()),
            sorted(offer.weights.items()),
            sorted(offer.activations.items()),
            [(name, cost.tolist()) for name, cost in sorted(offer.cost.items())],
            settings,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _offer(self, problem: Problem) -> BitOffer:
        """Every operator's weight bits, and for each tensor the bits in which any of its readers has a choice."""
        from tvm_mpq.training.gated_network import BitOffer

        graph = self._context.prepared.graph
        nodes: list[Node] = []
        weights: dict[str, tuple[int, ...]] = {}
        activations: dict[str, tuple[int, ...]] = {}
        for node in graph.weighted():
            precisions = [Precision.parse(c.label) for c in problem.operator(node.name).choices]
            integers = [p for p in precisions if not p.is_float]
            if integers:
                tensor = graph.quant_root(node.inputs[0])
                nodes.append(node)
                weights[node.name] = tuple(sorted({p.weight_bits for p in integers}))
                known = activations.get(tensor, ())
                activations[tensor] = tuple(sorted({*known, *(p.activation_bits for p in integers)}))
        cost = {
            node.name: np.array(
                [
                    [self._cost(node, problem, Precision(w, a)) for a in activations[graph.quant_root(node.inputs[0])]]
                    for w in weights[node.name]
                ]
            )
            for node in nodes
        }
        return BitOffer(weights, activations, cost)

    def _cost(self, node: Node, problem: Problem, bits: Precision) -> float:
        """What an operator costs with these bits: bit operations, or microseconds, of what it would run at."""
        choice = runnable(problem.operator(node.name).choices, bits)
        if self._context.options.regulariser == LATENCY:
            return min(choice.latency_us.values())
        runs = Precision.parse(choice.label)
        return float(node.conv.macs * runs.weight_bits * runs.activation_bits)
