"""Plans of a comparison on images that nothing was chosen on: run step by step, nothing is built for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import Dataset, load_dataset
from tvm_mpq.calibrate.sensitivity import Loss, predict
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import accuracy, check_labels, classifies, metric_for
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.schema import Plan
from tvm_mpq.tuning.database.results import ResultStore

VERSION = 2
"""Part of every stored key: raise it when equal plans give other results."""

_KIND = "held"


@dataclass(frozen=True)
class HeldRun:
    """One plan on all images. accuracy: percent, by the metric of `accuracy`. loss: as the tables have it, of the whole
    network. right: of each image; empty for what is no classifier."""

    metric: str
    accuracy: float
    loss: float
    right: tuple[bool, ...]


class HeldImages:
    """Images that plans are run on: the evaluation data of a comparison, or those that are given.

    A plan that was run once on them is not run again, whenever.
    """

    def __init__(self, context: RunContext, rounder: Rounder, fp32: Plan, data: Dataset | None = None) -> None:
        self._context, self._rounder, self._fp32 = context, rounder, fp32
        self._data = data or load_dataset(context.options.eval_data, context.prepared.inputs)
        check_labels(self._data.labels, classifies=classifies(context.prepared.graph))
        self._reference: list[Array] | None = None

    def __call__(self, plans: Mapping[str, Plan]) -> dict[str, HeldRun]:
        """Every plan by its name."""
        progress = self._context.options.progress
        found = {}
        for i, (name, plan) in enumerate(plans.items(), 1):
            found[name] = self._run(plan, name)
            if progress:
                progress(i, len(plans), "running plans on the evaluation data")
        return found

    def _run(self, plan: Plan, name: str) -> HeldRun:
        codes = self._rounder(plan)
        store, key = ResultStore(self._context.db), self._key(plan, codes)
        row = store.get(_KIND, key)
        if row is None:
            run = self._fresh(plan, codes, name)
            row = {"metric": run.metric, "accuracy": run.accuracy, "loss": run.loss, "right": list(map(int, run.right))}
            store.put(_KIND, key, row)
        return HeldRun(row["metric"], row["accuracy"], row["loss"], tuple(map(bool, row["right"])))

    def _fresh(self, plan: Plan, codes: WeightCodes, name: str) -> HeldRun:
        graph = self._context.prepared.graph
        if self._reference is None:
            self._reference = self._outputs(self._fp32, WeightCodes())
        outputs = self._outputs(plan, codes)
        labels = self._data.labels
        said = accuracy(outputs, self._reference, labels, classifies=classifies(graph), whose=f"the plan of {name}")
        sums = Loss()
        for reference, output in zip(self._reference, outputs, strict=True):
            sums.add(reference, output, None)
        right: tuple[bool, ...] = ()
        if classifies(graph):
            classes, before = (_classes(x) for x in (outputs, self._reference))
            right = tuple(map(bool, classes == (before if labels is None else labels[: len(classes)])))
        return HeldRun(said.metric, said.value, sums.mean(metric_for(graph)), right)

    def _outputs(self, plan: Plan, codes: WeightCodes) -> list[Array]:
        context = self._context
        steps = emulated_on_int8(network.all_steps(context.prepared, plan, codes), context.store)
        samples = learn.graph_samples(context.prepared, self._data)
        return context.interpret(lambda interpreter: predict(interpreter, steps, samples))

    def _key(self, plan: Plan, codes: WeightCodes) -> str:
        prepared = self._context.prepared
        parts = (
            *(VERSION, prepared.loaded.fingerprint, prepared.row.mcpu, self._data.fingerprint, codes.digest),
            *(sorted(plan.operators.items()), sorted(plan.formats.items()), sorted(plan.tensors.items())),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _classes(outputs: list[Array]) -> Array:
    """int64[N] of outputs float32[batch, ...] each."""
    return np.concatenate([o.reshape(len(o), -1).argmax(axis=-1) for o in outputs])
