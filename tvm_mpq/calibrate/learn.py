"""What the network itself tells: activation ranges and sensitivity, kept in the database so that nothing runs twice."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from tvm_mpq.calibrate.data import Dataset, Parts
from tvm_mpq.calibrate.float_side import FloatSide
from tvm_mpq.calibrate.masked import SAMPLES as MASKED_SAMPLES
from tvm_mpq.calibrate.masked import VERSION as MASKED_VERSION
from tvm_mpq.calibrate.masked import masked_losses
from tvm_mpq.calibrate.ranges import calibrate, range_bits
from tvm_mpq.calibrate.rounding import GPTQ, NEAREST, float_side, round_alone
from tvm_mpq.calibrate.sensitivity import Loss, Trial, float_plan, measure_losses, trials
from tvm_mpq.execute.accuracy import metric_for
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import KernelStep, Step, lower
from tvm_mpq.schema import Plan, Precision, Progress, TensorQuant
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.results import ResultStore

VERSION = 13
"""Part of every stored key: raise it when the meaning of ranges or losses changes."""


class CalibrationSettings(Protocol):
    """How the network is looked at: an observer of ranges, for which precisions, and at most so many samples."""

    @property
    def offered(self) -> tuple[Precision, ...]: ...

    @property
    def observer(self) -> str: ...

    @property
    def rounding(self) -> str: ...

    @property
    def rounding_samples(self) -> int: ...

    @property
    def calibration_samples(self) -> int: ...

    @property
    def sensitivity_samples(self) -> int: ...

    @property
    def progress(self) -> Progress | None: ...


def graph_samples(prepared: Prepared, data: Dataset) -> list[Sample]:
    """The data's samples under the graph's own tensor names."""
    return [prepared.by_tensor(sample) for sample in data.samples()]


def bare_plan(prepared: Prepared, tensors: dict[str, list[TensorQuant]]) -> Plan:
    """A plan with every operator in fp32, to be filled."""
    empty = Plan(prepared.row.name, prepared.tvm_target_attrs, {}, tensors)
    return float_plan(prepared.graph, empty)


def float_steps(prepared: Prepared, plan: Plan) -> list[Step]:
    """The fp32 network under the same ranges."""
    return lower(prepared.graph, float_plan(prepared.graph, plan), prepared.features)


@dataclass(frozen=True)
class Learner:
    """Finds ranges and losses of one network; what the database knows is not looked for again.

    store: compiles the kernels that stand in for those of other CPUs.
    """

    prepared: Prepared
    db: LatencyDatabase
    options: CalibrationSettings
    store: KernelStore
    _sides: dict[str, FloatSide] = field(default_factory=dict, repr=False)

    def float_side(self, plan: Plan, data: Dataset) -> FloatSide:
        """The float network on these data, made once for sensitivity and all plans. plan: any of this network's."""
        if data.fingerprint not in self._sides:
            samples = graph_samples(self.prepared, data)
            self._sides[data.fingerprint] = float_side(self.prepared.graph, plan, self.prepared.features, samples)
        return self._sides[data.fingerprint]

    def ranges(self, interpreter: Interpreter, data: Dataset) -> dict[str, list[TensorQuant]]:
        """Activation ranges from at most `options.calibration_samples` samples, for all precisions that are offered.

        At 8 bits those of a file that was quantized elsewhere stand in their place.
        """
        prepared, options = self.prepared, self.options
        used = data.head(options.calibration_samples)
        bits = range_bits(prepared.graph, options.offered)
        key = self._key(used, options.observer, tuple(bits))
        stored = ResultStore(self.db).get("ranges", key)
        if stored is not None:
            return prepared.own.over({name: [TensorQuant(**q) for q in quants] for name, quants in stored.items()})
        steps = lower(prepared.graph, bare_plan(prepared, {}), prepared.features)
        found = calibrate(
            prepared.graph,
            interpreter,
            steps,
            graph_samples(prepared, used),
            bits=bits,
            method=options.observer,
            progress=options.progress,
        )
        rows = {name: [dataclasses.asdict(q) for q in quants] for name, quants in found.items()}
        ResultStore(self.db).put("ranges", key, rows)
        return prepared.own.over(found)

    def losses(self, interpreter: Interpreter, plan: Plan, parts: Parts) -> dict[tuple[str, str], Loss]:
        """(operator, precision) -> Loss, from at most `options.sensitivity_samples` samples; goes on where it stopped.

        Each operator is tried with the weights that rounding gives it when it alone is quantized: to nearest, or in
        closed form, from which learned rounding starts.
        """
        prepared, options, graph = self.prepared, self.options, self.prepared.graph
        data, rounded = parts.judged, parts.rounded.head(options.rounding_samples)
        used = data.head(options.sensitivity_samples)
        todo = trials(graph, plan, prepared.features)
        method = NEAREST if data.synthetic or options.rounding == NEAREST else GPTQ
        names = (f"{t.operator}={t.precision}" for t in todo)
        kept = rounded.fingerprint, *self._shares(), prepared.own.digest
        key = self._key(data, options.observer, method, *kept, *names)
        stored = ResultStore(self.db).get("sensitivity", key) or {"done": 0, "losses": {}}
        known = {tuple(name.rsplit("@", 1)): Loss(**sums) for name, sums in stored["losses"].items()}
        if stored["done"] >= len(used) or not todo:
            return known

        def keep(done: int, sums: dict[tuple[str, str], Loss]) -> None:
            rows = {f"{operator}@{precision}": dataclasses.asdict(loss) for (operator, precision), loss in sums.items()}
            ResultStore(self.db).put("sensitivity", key, {"done": done, "losses": rows})

        if method != NEAREST:
            todo = _rounded(todo, graph, interpreter, plan, self.float_side(plan, rounded), options.progress)
        return measure_losses(
            interpreter,
            lower(graph, plan, prepared.features),
            self._runnable(todo),
            graph_samples(prepared, used),
            used.labels if used.batch == 1 else None,
            progress=options.progress,
            on_sample=keep,
            start=stored["done"],
            losses=known or None,
        )

    def masked(self, interpreter: Interpreter, plan: Plan, data: Dataset) -> dict[tuple[str, str], float]:
        """(operator, precision) -> loss estimated by masks (`calibrate.masked`), from its own few samples.

        Weights are rounded to nearest: nothing else needs no data.
        """
        prepared, options, graph = self.prepared, self.options, self.prepared.graph
        used = data.head(min(MASKED_SAMPLES, options.sensitivity_samples))
        todo = trials(graph, plan, prepared.features)
        names = (f"{t.operator}={t.precision}" for t in todo)
        key = self._key(data, options.observer, MASKED_VERSION, *self._shares(), prepared.own.digest, *names)
        stored = ResultStore(self.db).get("masked", key)
        if stored is None:
            found = masked_losses(
                graph,
                interpreter,
                lower(graph, plan, prepared.features),
                self._runnable(todo),
                graph_samples(prepared, used),
                metric=metric_for(graph),
                progress=options.progress,
            )
            stored = {f"{o}@{p}": x if math.isfinite(x) else None for (o, p), x in found.items()}
            ResultStore(self.db).put("masked", key, stored)
        rows = {tuple(name.rsplit("@", 1)): x for name, x in stored.items()}
        return {(o, p): math.inf if x is None else float(x) for (o, p), x in rows.items()}

    def table(self, found: dict[tuple[str, str], Loss]) -> dict[tuple[str, str], float]:
        """What the solver adds up: mean KL divergence, or relative squared error; infinite for broken outputs."""
        metric = metric_for(self.prepared.graph)
        return {key: loss.mean(metric) for key, loss in found.items()}

    def _runnable(self, todo: list[Trial]) -> list[Trial]:
        """The trials with kernels that run here."""
        return [dataclasses.replace(trial, steps=tuple(emulated_on_int8(trial.steps, self.store))) for trial in todo]

    def _shares(self) -> tuple[int, ...]:
        """How much of the data a loss stands on: ranges and rounding see other samples than it is measured on."""
        options = self.options
        return options.calibration_samples, options.sensitivity_samples, options.rounding_samples

    def _key(self, data: Dataset, *more: Any) -> str:
        known = self.prepared.loaded.fingerprint, self.prepared.row.mcpu, data.fingerprint
        return hashlib.sha256("|".join(map(str, (VERSION, *known, *more))).encode()).hexdigest()


def _rounded(
    todo: list[Trial],
    graph: Graph,
    interpreter: Interpreter,
    plan: Plan,
    wide: FloatSide,
    progress: Progress | None,
) -> list[Trial]:
    """The same trials, whose operators compute with weights that were rounded to their outputs."""
    wanted = [(t.operator, t.precision) for t in todo]
    weights = round_alone(graph, interpreter, plan, wide, wanted, progress=progress)

    def step_of(trial: Trial, step: Step) -> Step:
        codes = weights.get((trial.operator, trial.precision))
        if codes is None or not isinstance(step, KernelStep) or step.node != trial.operator:
            return step
        return dataclasses.replace(step, operands=dataclasses.replace(step.operands, codes=codes))

    return [dataclasses.replace(t, steps=tuple(step_of(t, s) for s in t.steps)) for t in todo]
