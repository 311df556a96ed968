"""The main job: from a model to the fastest library that keeps its budget, step by step."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.data import Dataset, load_dataset
from tvm_mpq.calibrate.sensitivity import classifies, kl_divergence, metric_for, predict
from tvm_mpq.pipeline import latency, learn, network
from tvm_mpq.pipeline.bench import Bench, open_bench
from tvm_mpq.pipeline.choose import Quality, Tried, choose, effective_budget
from tvm_mpq.pipeline.options import Options, Result, to_json
from tvm_mpq.pipeline.prepare import Prepared
from tvm_mpq.pipeline.problem import Space, build_problem
from tvm_mpq.report import write_report
from tvm_mpq.schema import Plan, Precision
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Problem
from tvm_mpq.tuning.network import NetworkJob, measure_networks

UNIFORM = "w8a8"


@dataclass
class Tables:
    """Everything measured about a network, and the selection problem made of it."""

    plan: Plan  # fp32, with ranges and kernels; the frame every other plan fills
    latency: latency.LatencyTable
    losses: dict[tuple[str, str], float]
    problem: Problem
    solution_fp32: Solution
    solution_int8: Solution


def build_tables(bench: Bench, data: Dataset) -> Tables:
    """Measure latencies, calibrate, estimate sensitivity; whatever the database knows is not done again."""
    options, prepared = bench.options, bench.prepared
    space = Space(prepared.graph, prepared.features, prepared.threads)
    options.tell("measuring kernels on this CPU")
    meter = bench.meter()
    table = latency.fill(meter, space.requests())
    options.tell("calibrating")
    ranges = learn.ranges(prepared, bench.interpreter, data, bench.db, options)
    plan = dataclasses.replace(learn.bare_plan(prepared, ranges), kernels=_kernel_rows(table))
    options.tell("estimating sensitivity")
    found = learn.losses(prepared, bench.interpreter, plan, data, bench.db, options)
    losses = learn.loss_table(prepared, found)
    problem = build_problem(
        space,
        table.latency_us,
        table.kernel,
        losses,
        fixed_us=latency.float_time_us(meter, network.float_functions(network.realize(prepared, plan))),
        call_us=latency.call_us(meter),
    )
    weighted = {n.name for n in prepared.graph.weighted()}
    fp32 = cost(problem, uniform(problem, "fp32"))
    int8 = cost(problem, {k: v for k, v in uniform(problem, UNIFORM, ["fp32"]).items() if k in weighted})
    return Tables(plan, table, losses, problem, fp32, int8)


def _kernel_rows(table: latency.LatencyTable) -> dict[str, dict[str, Any]]:
    return {key: {"family": k.family.name, "knobs": k.knobs} for key, k in sorted(table.kernels.items())}


def plan_of(bench: Bench, tables: Tables, solution: Solution) -> Plan:
    """The plan that a solution stands for."""
    names = [n.name for n in bench.prepared.graph.weighted()]
    operators = {name: solution.choices[name] for name in names}
    used = {Precision.parse(text).activation_bits for text in operators.values()}
    tensors = {name: [q for q in quants if q.bits in used or q.bits == 8] for name, quants in tables.plan.tensors.items()}
    return dataclasses.replace(tables.plan, operators=operators, formats=dict(solution.formats), tensors=tensors)


class Judge:
    """Runs solutions end to end in the interpreter on the calibration data."""

    def __init__(self, bench: Bench, tables: Tables, data: Dataset) -> None:
        self._bench = bench
        self._tables = tables
        self._data = data.head(bench.options.check_samples)
        self._samples = learn.graph_samples(bench.prepared, self._data)
        steps = learn.float_steps(bench.prepared, tables.plan)
        self._reference = list(predict(bench.interpreter, steps, self._samples))
        self._float = self._accuracy(self._reference)

    def __call__(self, solution: Solution) -> Quality:
        steps = network.all_steps(self._bench.prepared, plan_of(self._bench, self._tables, solution))
        outputs = list(predict(self._bench.interpreter, steps, self._samples))
        result = self._accuracy(outputs)
        worse = result.value - self._float.value if result.metric == "relative_error" else self._float.value - result.value
        return Quality(drop=worse, loss=float(np.mean([self._loss(r, o) for r, o in zip(self._reference, outputs, strict=True)])))

    def _accuracy(self, outputs: list[npt.NDArray[Any]]) -> network.Accuracy:
        graph = self._bench.prepared.graph
        return network.accuracy(outputs, self._reference, self._data.labels, classifies=classifies(graph))

    def _loss(self, reference: npt.NDArray[Any], output: npt.NDArray[Any]) -> float:
        ref, out = (x.reshape(len(x), -1).astype(np.float64) for x in (reference, output))
        if metric_for(self._bench.prepared.graph) == "kl":
            return kl_divergence(ref, out)
        return float(np.sum((ref - out) ** 2) / max(np.sum(ref**2), 1e-30))


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
    tables = build_tables(bench, data)
    options.tell("selecting")
    judge = Judge(bench, tables, data)
    chosen, tried = choose(
        tables.problem,
        options.budget,
        tables.solution_int8.latency_us,
        judge,
        time_limit_sec=options.solver_time_limit_sec,
        progress=options.progress,
    )
    return _deliver(bench, tables, data, eval_data, chosen, tried)


def _deliver(
    bench: Bench, tables: Tables, data: Dataset, eval_data: Dataset, chosen: Tried, tried: list[Tried]
) -> Result:
    """Build and measure fp32, uniform 8 bit and the chosen plan; write the folder."""
    options = bench.options
    work: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="tvm_mpq_")
    folder = Path(work.name)
    solutions = {"fp32": tables.solution_fp32, "int8": tables.solution_int8, "mixed": chosen.solution}
    plans = {name: plan_of(bench, tables, s) for name, s in solutions.items()}
    options.tell("building and verifying")
    checked = verify_all(bench, plans, eval_data, folder)
    report = describe(bench, tables, data, eval_data, chosen, tried, plans, checked)
    plan = dataclasses.replace(plans["mixed"], info=network.plan_info(bench.prepared))
    plan.save(folder / "plan.json")
    (folder / "report.json").write_text(to_json(report) + "\n", encoding="utf-8")
    write_report(report, folder / "report.html")
    return Result(plan, report, work)


@dataclass(frozen=True)
class Checked:
    """One built network, measured. latency in microseconds."""

    median_us: float
    iqr_us: float
    accuracy: network.Accuracy
    bytes: int


def verify_all(bench: Bench, plans: Mapping[str, Plan], eval_data: Dataset, folder: Path) -> dict[str, Checked]:
    """Build each distinct plan, run it on the evaluation data on the device, and time all of them."""
    prepared, options = bench.prepared, bench.options
    inputs = [[sample[n] for n in prepared.inputs] for sample in eval_data.samples()]
    outputs: dict[str, list[npt.NDArray[Any]]] = {}
    built: dict[str, network.Built] = {}
    twins = _twins(prepared, plans)
    with bench.open_session() as session:
        for i, name in enumerate(dict.fromkeys(twins.values())):
            if options.progress:
                options.progress(i, len(plans), f"building and verifying {name}")
            built[name] = network.build(prepared, plans[name], folder / f"{name}.so")
            outputs[name] = network.run_library(session, built[name].path, inputs)
        if options.progress:
            options.progress(len(plans), len(plans), "building and verifying")
        jobs = [NetworkJob(b.path, inputs[0]) for b in built.values()]
        times = dict(zip(built, measure_networks(session, jobs, latency.SETTINGS), strict=True))
    results = {}
    for name, twin in twins.items():
        quality = network.accuracy(
            outputs[twin], outputs[twins["fp32"]], eval_data.labels, classifies=classifies(prepared.graph)
        )
        time = times[twin]
        results[name] = Checked(time.median_us, time.iqr_us, quality, built[twin].bytes)
    built[twins["mixed"]].path.rename(folder / "model.so")
    for other in folder.glob("*.so"):
        if other.name != "model.so":
            other.unlink()
    return results


def _twins(prepared: Prepared, plans: Mapping[str, Plan]) -> dict[str, str]:
    """Plan name -> the first name under which the same network stands, so that equal plans are built once."""
    first: dict[str, str] = {}
    return {name: first.setdefault(network.plan_digest(prepared, plan), name) for name, plan in plans.items()}


def describe(
    bench: Bench,
    tables: Tables,
    data: Dataset,
    eval_data: Dataset,
    chosen: Tried,
    tried: list[Tried],
    plans: Mapping[str, Plan],
    checked: Mapping[str, Checked],
) -> dict[str, Any]:
    """The JSON object of the contract."""
    predicted = {
        "fp32": tables.solution_fp32.latency_us / 1000,
        "int8": tables.solution_int8.latency_us / 1000,
        "mixed": chosen.solution.latency_us / 1000,
    }
    measured = {name: c.median_us / 1000 for name, c in checked.items()}
    solution = chosen.solution
    metric = checked["mixed"].accuracy.metric
    operators = []
    for node in bench.prepared.graph.weighted():
        choice = tables.problem.operator(node.name).choice(solution.choices[node.name])
        operators.append(
            {
                "name": node.name,
                "workload": node.conv.key,
                "precision": solution.choices[node.name],
                "candidates": {
                    c.label: {"latency_us": dict(c.latency_us), "loss": c.loss, "size_bytes": c.size_bytes}
                    for c in tables.problem.operator(node.name).choices
                },
                "latency_us": min(choice.latency_us.values()),
                "macs": node.conv.macs,
            }
        )
    return {
        "model": bench.prepared.loaded.name,
        "target": bench.prepared.row.name,
        "device": bench.device.key,
        "threads": bench.options.threads,
        "operators": operators,
        "plan": dict(plans["mixed"].operators),
        "latency_ms": {**measured, "predicted": predicted["mixed"]},
        "latency_iqr_ms": {name: c.iqr_us / 1000 for name, c in checked.items()},
        "predicted_ms": predicted,
        "accuracy": {
            "metric": metric,
            **{name: c.accuracy.value for name, c in checked.items()},
            "hits": {name: c.accuracy.hits for name, c in checked.items()},
            "samples": checked["mixed"].accuracy.samples,
            "on_calibration_data": eval_data is data,
        },
        "size_bytes": {name: c.bytes for name, c in checked.items()},
        "weight_bytes": {
            "fp32": tables.solution_fp32.size_bytes,
            "int8": tables.solution_int8.size_bytes,
            "mixed": chosen.solution.size_bytes,
        },
        "budget": dataclasses.asdict(effective_budget(bench.options.budget)),
        "solver": {
            "name": solution.solver,
            "status": solution.status,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "seconds": solution.seconds,
        },
        "plans_tried": [
            {"predicted_ms": t.solution.latency_us / 1000, "loss": t.solution.loss, "drop": t.quality.drop} for t in tried
        ],
        "latency_entries": {"measured": tables.latency.measured, "predicted": 0, "cached": tables.latency.cached},
        "boundaries": network.conversions(network.all_steps(bench.prepared, plans["mixed"])),
        "calibration": {"samples": len(data), "synthetic": data.synthetic, "observer": bench.options.observer},
        "artifacts": {},
    }

