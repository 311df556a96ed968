"""The main job: from a model to the fastest library that keeps its budget, step by step."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.calibrate.sensitivity import classifies
from tvm_mpq.pipeline import network
from tvm_mpq.pipeline.bench import open_bench
from tvm_mpq.pipeline.choose import choose
from tvm_mpq.pipeline.describe import describe
from tvm_mpq.pipeline.judge import Judge
from tvm_mpq.pipeline.options import Options, Result, to_json
from tvm_mpq.pipeline.tables import build_tables, corrected_tables, plan_of
from tvm_mpq.pipeline.workshop import Workshop
from tvm_mpq.report import write_report


def optimize(options: Options) -> Result:
    """Find, build and verify. See `tvm_mpq.optimize`."""
    bench = open_bench(options)
    prepared = bench.prepared
    data = load_dataset(options.data, prepared.inputs)
    eval_data = load_dataset(options.eval_data, prepared.inputs) if options.eval_data is not None else data
    for given in (data, eval_data):
        network.check_labels(given.labels, classifies=classifies(prepared.graph))
    if data.synthetic:
        options.tell("no calibration data given: synthetic data (standard normal) are used; expect poor ranges")
    if not any(prepared.graph.weighted()):
        options.tell("the model has no quantizable operator: it is built as fp32")
    workshop = Workshop(bench, data.sample(0))
    tables = corrected_tables(bench, build_tables(bench, data), workshop)
    options.tell("selecting")
    chosen, tried = choose(
        tables.problem,
        options.budget,
        tables.int8.latency_us,
        Judge(bench, tables, data),
        time_limit_sec=options.solver_time_limit_sec,
        progress=options.progress,
    )
    options.tell("verifying")
    solutions = {"fp32": tables.fp32, "int8": tables.int8, "mixed": chosen.solution}
    plans = {name: plan_of(bench, tables, solution) for name, solution in solutions.items()}
    checked = workshop.check(plans, eval_data, {name: s.latency_us for name, s in solutions.items()})
    report = describe(bench, tables, data, eval_data, chosen, tried, plans, checked)

    plan = dataclasses.replace(plans["mixed"], info=network.plan_info(prepared))
    work: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="tvm_mpq_")
    folder = Path(work.name)
    shutil.copy2(workshop.build(plans["mixed"]).path, folder / "model.so")
    plan.save(folder / "plan.json")
    (folder / "report.json").write_text(to_json(report) + "\n", encoding="utf-8")
    write_report(report, folder / "report.html")
    return Result(plan, report, work)
