"""The main job: from a model to the fastest library that keeps its budget, step by step."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tvm_mpq.calibrate.data import Dataset, load_dataset
from tvm_mpq.calibrate.evaluate import PlanEvaluator, remembered
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import check_labels, classifies
from tvm_mpq.numerics.saved_plan import save_plan
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.describe import describe
from tvm_mpq.pipeline.finetune import Finetuner
from tvm_mpq.pipeline.options import Options, Result, to_json
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.tables import Tables, build_tables, corrected_tables, measure_chosen_predictions, plan_of
from tvm_mpq.report import write_report
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.schema import Budget
from tvm_mpq.select.choose import Quality, Tried, choose
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Problem
from tvm_mpq.select.searcher import IntegerProgram

TIGHTENINGS = 2
"""How often a plan is chosen anew when the built network misses the latency budget that its table keeps."""

TOLERANCE = 0.01
"""Relative excess over the latency budget that is left: measuring again would scatter as much."""


def optimize(options: Options) -> Result[OptimizeReport]:
    """Find, build and verify. See `tvm_mpq.optimize`."""
    with open_context(options) as context:
        return _optimize(context, options)


def _optimize(context: RunContext, options: Options) -> Result[OptimizeReport]:
    prepared = context.prepared
    data = load_dataset(options.data, prepared.inputs)
    eval_data = load_dataset(options.eval_data, prepared.inputs) if options.eval_data is not None else data
    for given in (data, eval_data):
        check_labels(given.labels, classifies=classifies(prepared.graph))
    if data.synthetic:
        options.tell("no calibration data given: synthetic data (standard normal) are used; expect poor ranges")
    if not any(prepared.graph.weighted()):
        options.tell("the model has no quantizable operator: it is built as fp32")
    rounder = Rounder(context, data)
    tuner = Finetuner(context, data, rounder)
    builds = context.build_cache(data.sample(0), tuner)
    tables = corrected_tables(context, build_tables(context, data), builds)
    evaluate = remembered(_evaluator(context, tables, data, rounder))
    tables, chosen, tried = _select(context, tables, evaluate, 1.0)
    share = 1.0
    for _ in range(TIGHTENINGS + 1):
        solutions = {"fp32": tables.fp32, "int8": tables.int8, "mixed": chosen.solution}
        plans = {name: plan_of(context, tables, solution) for name, solution in solutions.items()}
        plans["mixed"], learned = tuner.tuned(plans["mixed"])
        options.tell("verifying")
        checked = builds.check(
            plans, eval_data.samples(), eval_data.labels, {name: s.latency_us for name, s in solutions.items()}
        )
        over = excess(options.budget, {name: c.median_us for name, c in checked.items()})
        if over <= 1 + TOLERANCE:
            break
        share /= over
        options.tell(f"measured {over - 1:.1%} above the latency budget: selecting again with {share:.1%} of it")
        try:
            tables, chosen, tried = _select(context, tables, evaluate, share)
        except InfeasibleError as e:
            options.tell(f"no plan is predicted to be that fast: {e}")
            break
    report = describe(context, tables, data, eval_data, chosen, tried, plans, checked, learned)

    plan = dataclasses.replace(plans["mixed"], info=network.plan_info(prepared))
    work: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="tvm_mpq_")
    folder = Path(work.name)
    shutil.copy2(builds.build(plans["mixed"]).path, folder / "model.so")
    plan = save_plan(plan, tuner(plans["mixed"]), folder)
    (folder / "report.json").write_text(to_json(report) + "\n", encoding="utf-8")
    write_report(report, folder / "report.html")
    return Result(plan, report, work)


def _evaluator(context: RunContext, tables: Tables, data: Dataset, rounder: Rounder) -> PlanEvaluator:
    return PlanEvaluator(
        context.prepared,
        context.store,
        context.interpret,
        lambda solution: plan_of(context, tables, solution),
        rounder,
        tables.plan,
        data.head(context.options.check_samples),
    )


def _select(
    context: RunContext, tables: Tables, evaluate: Callable[[Solution], Quality], latency_share: float
) -> tuple[Tables, Tried, list[Tried]]:
    """The tables that the chosen plan stands on, measured alone; the plan; and all that were tried."""
    options = context.options
    while True:
        options.tell("selecting")
        chosen, tried = choose(
            tables.optimistic,
            options.budget,
            tables.int8,
            evaluate,
            searcher=IntegerProgram(options.solver_time_limit_sec),
            latency_share=latency_share,
            progress=options.progress,
        )
        settled = measure_chosen_predictions(context, tables, chosen.solution)
        if settled is None:
            return tables, chosen, [repriced(tables.problem, t) for t in tried]
        tables = settled


def repriced(problem: Problem, tried: Tried) -> Tried:
    """With the latency that the problem gives it."""
    solution = tried.solution
    us = price(problem, solution.choices, solution.formats).latency_us
    return Tried(dataclasses.replace(solution, latency_us=us), tried.quality)


def excess(budget: Budget, measured_us: Mapping[str, float]) -> float:
    """What was measured of the mixed network over what the budget allows; at most 1 where it is kept or not limited."""
    found = [0.0]
    if budget.latency_ratio is not None:
        found.append(measured_us["mixed"] / (budget.latency_ratio * measured_us["int8"]))
    if budget.latency_ms is not None:
        found.append(measured_us["mixed"] / (1000 * budget.latency_ms))
    return max(found)
