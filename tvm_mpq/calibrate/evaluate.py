"""Real accuracy of candidate plans: each is run end to end in the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.judge import Judge
from tvm_mpq.calibrate.sensitivity import predict
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import classifies, metric_for
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.lowering import Step
from tvm_mpq.schema import Plan
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.quality import Quality
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
    """Runs solutions end to end in the interpreter; a `Judge` tells from their outputs what they are worth.

    allowed: accuracy points that may be lost, None = not limited. new: whether the data are known not to be trained on.
    """

    def __init__(
        self,
        prepared: Prepared,
        store: KernelStore,
        interpret: Interpret,
        plan_of: Callable[[Solution], Plan],
        codes_of: Callable[[Plan], WeightCodes],
        fp32: Plan,
        data: Dataset,
        *,
        allowed: float | None = None,
        new: bool = False,
    ) -> None:
        self._prepared, self._store, self._interpret, self._plan_of = prepared, store, interpret, plan_of
        self._codes_of = codes_of
        steps, graph = learn.float_steps(prepared, fp32), prepared.graph
        self.judge = Judge(
            lambda part: self._outputs(steps, part),
            data,
            classifies=classifies(graph),
            metric=metric_for(graph),
            allowed=allowed,
            new=new,
        )

    def __call__(self, solution: Solution, allowed: float | None = None) -> Quality:
        """allowed: points for this solution, where other ones than for all."""
        plan = self._plan_of(solution)
        steps = emulated_on_int8(network.all_steps(self._prepared, plan, self._codes_of(plan)), self._store)
        return self.judge(lambda part: self._outputs(steps, part), allowed)

    def _outputs(self, steps: list[Step], data: Dataset) -> list[npt.NDArray[Any]]:
        samples = learn.graph_samples(self._prepared, data)
        return self._interpret(lambda interpreter: predict(interpreter, steps, samples))
