"""The report of `optimize` as one JSON object: the command line's contract."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.execute import network
from tvm_mpq.execute.build_cache import Checked
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.front import picture_points
from tvm_mpq.pipeline.judgement import held, tried_plan
from tvm_mpq.pipeline.peer_times import peer_times
from tvm_mpq.pipeline.provenance import provenance
from tvm_mpq.pipeline.tables import Tables
from tvm_mpq.pipeline.verification import import_verification
from tvm_mpq.report.contract import (
    CandidateFigures,
    FinetuneReport,
    Judgement,
    OperatorChoice,
    OptimizeReport,
    SpeedupFigures,
)
from tvm_mpq.schema import Plan
from tvm_mpq.select.choose import effective_budget
from tvm_mpq.select.problem import Choice, emitted_class
from tvm_mpq.select.quality import Tried
from tvm_mpq.select.reasons import reasons
from tvm_mpq.select.waterfall import waterfall
from tvm_mpq.tuning.measure.paired_ratio import RatioOfRounds, paired_ratio


def describe(
    context: RunContext,
    tables: Tables,
    data: Dataset,
    eval_data: Dataset,
    chosen: Tried,
    tried: list[Tried],
    plans: Mapping[str, Plan],
    checked: Mapping[str, Checked],
    judgement: Judgement,
    learned: FinetuneReport | None = None,
) -> OptimizeReport:
    """The JSON object of the contract, and how the device is after all this work."""
    predicted = {
        "fp32": tables.fp32.latency_us / 1000,
        "int8": tables.int8.latency_us / 1000,
        "mixed": chosen.solution.latency_us / 1000,
    }
    measured = {name: c.median_us / 1000 for name, c in checked.items()}
    solution = chosen.solution
    metric = checked["mixed"].accuracy.metric
    why = reasons(tables.problem, solution)
    foretold = {(key.workload, key.precision, key.out_bits) for key in tables.latency.predicted()}
    operators: list[OperatorChoice] = []
    for node in context.prepared.graph.quantizable():
        choice = tables.problem.operator(node.name).choice(solution.choices[node.name])
        emitted = emitted_class(solution.formats[node.output])
        workload = node.quantizable.key
        row: OperatorChoice = {
            "name": node.name,
            "workload": workload,
            "precision": solution.choices[node.name],
            "candidates": {
                c.label: _figures_of(c, {bits for bits in c.latency_us if (workload, c.label, bits) in foretold})
                for c in tables.problem.operator(node.name).choices
            },
            "latency_us": choice.latency_us.get(emitted, min(choice.latency_us.values())),
            "macs": node.quantizable.macs,
        }
        if node.name in why:
            row["reason"] = why[node.name]
        operators.append(row)
    return {
        "model": context.prepared.loaded.name,
        "target": context.prepared.row.name,
        "device": context.device.key,
        "threads": context.prepared.threads,
        "operators": operators,
        "plan": dict(plans["mixed"].operators),
        "latency_ms": {**measured, "predicted": predicted["mixed"]},
        "latency_iqr_ms": {name: c.iqr_us / 1000 for name, c in checked.items()},
        "speedups": _speedups(checked),
        "sentinel_ratio": _figures(paired_ratio(checked["mixed"].rounds_us, checked["mixed"].sentinel_us)),
        "predicted_ms": predicted,
        "accuracy": {
            "metric": metric,
            "fp32": checked["fp32"].accuracy.value,
            "int8": checked["int8"].accuracy.value,
            "mixed": checked["mixed"].accuracy.value,
            "hits": {name: c.accuracy.hits for name, c in checked.items()},
            "samples": checked["mixed"].accuracy.samples,
            "on_calibration_data": context.options.eval_data is None,
        },
        "size_bytes": {name: c.bytes for name, c in checked.items()},
        "activation_bytes": {name: c.activation_bytes for name, c in checked.items()},
        "weight_bytes": {
            "fp32": tables.fp32.size_bytes,
            "int8": tables.int8.size_bytes,
            "mixed": chosen.solution.size_bytes,
        },
        "budget": dataclasses.asdict(effective_budget(context.options.budget)),
        "nearest_budget": None,
        "solver": {
            "name": solution.solver,
            "status": solution.status,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "seconds": solution.seconds,
        },
        "plans_tried": [tried_plan(t) for t in tried],
        "judgement": judgement,
        "held": {} if eval_data is data else held(checked),
        "correction": dataclasses.asdict(tables.correction),
        "latency_entries": tables.latency.entries,
        "predictor": tables.latency.predictor,
        "front": picture_points(tables, solution, context.options.solver_time_limit_sec),
        "peers": peer_times(context.db, context.prepared.loaded.fingerprint, context.device.key),
        "waterfall": [
            {"name": step.name, "change_us": step.change_us}
            for step in waterfall(tables.problem, tables.int8, solution)
        ],
        "provenance": provenance(context, data, eval_data, plans["mixed"]),
        "boundaries": network.conversions(network.all_steps(context.prepared, plans["mixed"])),
        "calibration": {"samples": len(data), "synthetic": data.synthetic, "observer": context.options.observer},
        "import_check": import_verification(context.import_check),
        "finetune": learned,
        "artifacts": {},
        **context.condition(),
    }


def _figures_of(choice: Choice, predicted: Collection[int]) -> CandidateFigures:
    figures: CandidateFigures = {
        "latency_us": dict(choice.latency_us),
        "loss": choice.loss,
        "size_bytes": choice.size_bytes,
    }
    return {**figures, "predicted": sorted(predicted)} if predicted else figures


def _speedups(checked: Mapping[str, Checked]) -> dict[str, SpeedupFigures]:
    found: dict[str, SpeedupFigures] = {}
    for slow, fast in itertools.combinations(("fp32", "int8", "mixed"), 2):
        figures = _figures(paired_ratio(checked[slow].rounds_us, checked[fast].rounds_us))
        if figures is not None:
            found[f"{fast}_to_{slow}"] = figures
    return found


def _figures(ratio: RatioOfRounds | None) -> SpeedupFigures | None:
    if ratio is None:
        return None
    return {"median": ratio.median, "low": ratio.low, "high": ratio.high, "rounds": ratio.rounds}
