"""Real accuracy of candidate plans: each is run end to end in the interpreter on the calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.sensitivity import Loss, predict
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import Accuracy, accuracy, classifies, metric_for
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.lowering import Step
from tvm_mpq.schema import Plan
from tvm_mpq.select.choose import Quality
from tvm_mpq.select.ilp import Solution
from tvm_mpq.tuning.compile.kernel_store import KernelStore

Interpret = Callable[[Callable[[Interpreter], list[npt.NDArray[Any]]]], list[npt.NDArray[Any]]]
"""Does work with an interpreter, wherever that runs."""


def remembered(evaluate: Callable[[Solution], Quality]) -> Callable[[Solution], Quality]:
    """The same function, which evaluates equal plans once: accuracy stays the same when only latencies change."""
    known: dict[str, Quality] = {}

    def ask(solution: Solution) -> Quality:
        name = repr((sorted(solution.choices.items()), sorted(solution.formats.items())))
        if name not in known:
            known[name] = evaluate(solution)
        return known[name]

    return ask


class PlanEvaluator:
    """Runs solutions end to end in the interpreter on the calibration data."""

    def __init__(
        self,
        prepared: Prepared,
        store: KernelStore,
        interpret: Interpret,
        plan_of: Callable[[Solution], Plan],
        codes_of: Callable[[Plan], WeightCodes],
        fp32: Plan,
        data: Dataset,
    ) -> None:
        self._prepared, self._store, self._interpret, self._plan_of = prepared, store, interpret, plan_of
        self._codes_of, self._data = codes_of, data
        self._samples = learn.graph_samples(prepared, data)
        steps = learn.float_steps(prepared, fp32)
        self._reference = self._outputs(steps)
        self._float = self._accuracy(self._reference)

    def __call__(self, solution: Solution) -> Quality:
        plan = self._plan_of(solution)
        steps = network.all_steps(self._prepared, plan, self._codes_of(plan))
        outputs = self._outputs(emulated_on_int8(steps, self._store))
        sums = Loss()
        for reference, output in zip(self._reference, outputs, strict=True):
            sums.add(reference, output, None)
        loss = sums.mean(metric_for(self._prepared.graph))
        if not math.isfinite(loss):
            return Quality(math.inf, math.inf)
        result = self._accuracy(outputs)
        drop = self._float.value - result.value
        return Quality(-drop if result.metric == "relative_error" else drop, loss)

    def _outputs(self, steps: list[Step]) -> list[npt.NDArray[Any]]:
        return self._interpret(lambda interpreter: list(predict(interpreter, steps, self._samples)))

    def _accuracy(self, outputs: list[npt.NDArray[Any]]) -> Accuracy:
        graph = self._prepared.graph
        return accuracy(outputs, self._reference, self._data.labels, classifies=classifies(graph))
