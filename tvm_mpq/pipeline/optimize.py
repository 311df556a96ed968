"""The main job: from a model to the fastest library that keeps its budget, step by step."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tvm_mpq import scratch
from tvm_mpq.calibrate.data import doubt, load_dataset
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import check_labels, classifies
from tvm_mpq.execute.build_cache import NetworkBuildCache
from tvm_mpq.numerics.saved_plan import save_plan
from tvm_mpq.pipeline.bits import require_what_searches
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.describe import describe
from tvm_mpq.pipeline.finetune import Finetuner
from tvm_mpq.pipeline.forecast import remember_rest
from tvm_mpq.pipeline.judgement import judgement
from tvm_mpq.pipeline.options import Options, to_json
from tvm_mpq.pipeline.result import Result
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.selection import Selector
from tvm_mpq.pipeline.tables import Tables, build_tables, corrected_tables, plan_of
from tvm_mpq.pipeline.verified_outputs import VerifiedOutputs
from tvm_mpq.report import write_report
from tvm_mpq.report.contract import OptimizeReport, RivalPlan
from tvm_mpq.schema import Budget
from tvm_mpq.select.choose import effective_budget
from tvm_mpq.select.quality import Tried, fastest_uniform
from tvm_mpq.tuning.measure.paired_ratio import paired_ratio

TIGHTENINGS = 2
"""How often a plan is chosen anew when the built network misses the latency budget that its table keeps."""

TOLERANCE = 0.01
"""Relative excess over the latency budget that is left: measuring again would scatter as much."""


def optimize(options: Options) -> Result[OptimizeReport]:
    """Find, build and verify. See `tvm_mpq.optimize`."""
    options.require_measured("optimize")
    with open_context(options) as context:
        begun = time.monotonic()
        result = _optimize(context, options)
        remember_rest(context, time.monotonic() - begun - context.measuring_sec)
        return result


def _optimize(context: RunContext, options: Options) -> Result[OptimizeReport]:
    prepared = context.prepared
    data, parts = context.data, context.parts
    eval_data = parts.judged if options.eval_data is None else load_dataset(options.eval_data, prepared.inputs)
    for given in (data, eval_data):
        check_labels(given.labels, classifies=classifies(prepared.graph))
    if data.synthetic:
        options.tell("no calibration data given: synthetic data (standard normal) are used; expect poor ranges")
    if poor := doubt(data):
        options.tell(poor)
    if not any(prepared.graph.quantizable()):
        options.tell("the model has no quantizable operator: it is built as fp32")
    require_what_searches(context, [options.method])
    if parts.judged is not data:
        options.tell(
            f"of {len(data)} calibration samples, weights are rounded on {len(parts.rounded)} and plans judged on the "
            f"other {len(parts.judged)}"
        )
    rounder = Rounder(context, parts.rounded)
    tuner = Finetuner(context, data, rounder)
    builds = context.build_cache(data.sample(0), tuner)
    tables = corrected_tables(context, build_tables(context, whole=False), builds)
    selector = Selector(context, tables, parts.judged if options.judge == "calib" else eval_data, rounder, tuner)
    tables, chosen, tried = selector.select(tables, 1.0)
    share = 1.0
    for attempt in range(TIGHTENINGS + 1):
        chosen, contest = _contested(context, tables, builds, chosen, tried, selector.budget)
        solutions = {"fp32": tables.fp32, "int8": tables.int8, "mixed": chosen.solution}
        plans = {name: plan_of(context, tables, solution) for name, solution in solutions.items()}
        plans["mixed"], learned = tuner.tuned(plans["mixed"])
        options.tell("verifying")
        checked = builds.check(
            plans, eval_data.samples(), eval_data.labels, {name: s.latency_us for name, s in solutions.items()}
        )
        share_of_int8 = _share(checked["mixed"], checked["int8"])
        over = excess(selector.budget, checked["mixed"].median_us, share_of_int8)
        if over <= 1 + TOLERANCE or attempt == TIGHTENINGS:
            break  # at last, what is told of is what was built
        share /= over
        options.tell(f"measured {over - 1:.1%} above the latency budget: selecting again with {share:.1%} of it")
        try:
            tables, chosen, tried = selector.select(tables, share)
        except InfeasibleError as e:
            options.tell(f"no plan is predicted to be that fast: {e}")
            break
    scores = prepared.graph.tensors[prepared.graph.outputs[0]].shape
    classes = max(scores[1:]) if classifies(prepared.graph) else None
    judged = judgement(options, selector.judge, chosen, tried, contest, classes)
    report = describe(context, tables, data, eval_data, chosen, tried, plans, checked, judged, learned)

    if selector.budget != options.budget:
        report["nearest_budget"] = dataclasses.asdict(selector.budget)

    built = builds.build(plans["mixed"])
    plan = dataclasses.replace(plans["mixed"], info=network.plan_info(prepared, built))
    work = scratch.folder()
    folder = Path(work.name)
    shutil.copy2(built.path, folder / "model.so")
    plan = save_plan(plan, tuner(plans["mixed"]), folder)
    kept = VerifiedOutputs.of(checked["fp32"].outputs, checked["mixed"].outputs, classifies=classifies(prepared.graph))
    kept.save(folder)
    (folder / "report.json").write_text(to_json(report) + "\n", encoding="utf-8")
    write_report(report, folder / "report.html")
    if options.progress:
        options.progress(1, 1, "writing the report")
    return Result(plan, report, work)


def rival_of(chosen: Tried, tried: Sequence[Tried], budget: Budget) -> Tried | None:
    """The fastest uniform plan that keeps the drop, to be timed beside the chosen one; None where they are one."""
    max_drop = effective_budget(budget).max_drop
    rival = None if max_drop is None else fastest_uniform(tried, max_drop)
    return None if rival is None or rival.solution.choices == chosen.solution.choices else rival


def _contested(
    context: RunContext,
    tables: Tables,
    builds: NetworkBuildCache,
    chosen: Tried,
    tried: Sequence[Tried],
    budget: Budget,
) -> tuple[Tried, RivalPlan | None]:
    """The chosen plan, or the best uniform one where that is faster once both are built and timed in turns."""
    rival = rival_of(chosen, tried, budget)
    if rival is None:
        return chosen, None
    context.options.tell(f"timing the best plan found beside {rival.name}")
    plans = {"searched": plan_of(context, tables, chosen.solution), "rival": plan_of(context, tables, rival.solution)}
    predicted = {"searched": chosen.solution.latency_us, "rival": rival.solution.latency_us}
    times = builds.measure(plans, predicted, stage="timing the best plan beside a uniform one")
    contest = decided(rival.name, times["searched"], times["rival"])
    return rival if contest["chosen"] else chosen, contest


class Timed(Protocol):
    """A network that was timed. rounds_us: by the rounds' numbers."""

    @property
    def median_us(self) -> float: ...

    @property
    def rounds_us(self) -> Mapping[int, float]: ...


def decided(name: str, searched: Timed, rival: Timed) -> RivalPlan:
    """Whether the rival is taken: where it took less time in the median of the rounds that timed both.

    By however little: of two plans that keep the drop and are as fast as each other, the uniform one is the simpler.
    """
    share = _share(rival, searched)
    return {
        "name": name,
        "latency_ms": rival.median_us / 1000,
        "searched_ms": searched.median_us / 1000,
        "share": share,
        "chosen": share <= 1,
    }


def _share(network: Timed, beside: Timed) -> float:
    """Of the other's time: the median over the rounds that timed both, or of medians where there are few."""
    paired = paired_ratio(network.rounds_us, beside.rounds_us)
    return network.median_us / beside.median_us if paired is None else paired.median


def excess(budget: Budget, mixed_us: float, share_of_int8: float) -> float:
    """What was measured of the mixed network over what the budget allows; at most 1 where it is kept or not limited."""
    found = [0.0]
    if budget.latency_ratio is not None:
        found.append(share_of_int8 / budget.latency_ratio)
    if budget.latency_ms is not None:
        found.append(mixed_us / (1000 * budget.latency_ms))
    return max(found)
