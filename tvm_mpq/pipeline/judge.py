"""Candidate plans on trial: run end to end in the interpreter on the calibration data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.sensitivity import classifies, kl_divergence, metric_for, predict
from tvm_mpq.passes.lowering import Step
from tvm_mpq.pipeline import learn, network
from tvm_mpq.pipeline.bench import Bench
from tvm_mpq.pipeline.borrow import borrowed
from tvm_mpq.pipeline.choose import Quality
from tvm_mpq.pipeline.tables import Tables, plan_of
from tvm_mpq.select.ilp import Solution


def remembered(judge: Callable[[Solution], Quality]) -> Callable[[Solution], Quality]:
    """The same judge, which runs no solution twice: what it is worth does not hang on latencies."""
    known: dict[str, Quality] = {}

    def ask(solution: Solution) -> Quality:
        name = repr((sorted(solution.choices.items()), sorted(solution.formats.items())))
        if name not in known:
            known[name] = judge(solution)
        return known[name]

    return ask


class Judge:
    """Runs solutions end to end in the interpreter on the calibration data."""

    def __init__(self, bench: Bench, tables: Tables, data: Dataset) -> None:
        self._bench = bench
        self._tables = tables
        self._data = data.head(bench.options.check_samples)
        self._samples = learn.graph_samples(bench.prepared, self._data)
        steps = learn.float_steps(bench.prepared, tables.plan)
        self._reference = self._outputs(steps)
        self._float = self._accuracy(self._reference)

    def __call__(self, solution: Solution) -> Quality:
        steps = network.all_steps(self._bench.prepared, plan_of(self._bench, self._tables, solution))
        outputs = self._outputs(borrowed(steps, self._bench.store))
        result = self._accuracy(outputs)
        drop = self._float.value - result.value
        losses = [self._loss(r, o) for r, o in zip(self._reference, outputs, strict=True)]
        return Quality(-drop if result.metric == "relative_error" else drop, float(np.mean(losses)))

    def _outputs(self, steps: list[Step]) -> list[npt.NDArray[Any]]:
        return self._bench.interpret(lambda interpreter: list(predict(interpreter, steps, self._samples)))

    def _accuracy(self, outputs: list[npt.NDArray[Any]]) -> network.Accuracy:
        graph = self._bench.prepared.graph
        return network.accuracy(outputs, self._reference, self._data.labels, classifies=classifies(graph))

    def _loss(self, reference: npt.NDArray[Any], output: npt.NDArray[Any]) -> float:
        ref, out = (x.reshape(len(x), -1).astype(np.float64) for x in (reference, output))
        if metric_for(self._bench.prepared.graph) == "kl":
            return kl_divergence(ref, out)
        return float(np.sum((ref - out) ** 2) / max(np.sum(ref**2), 1e-30))
