"""Whole networks under random mixed plans: what the whole-network model predicts, and what they take.

    taskset -c 0 python benchmarks/plan_prediction.py --shared FOLDER --db FILE [--networks resnet20,mobilenetv2]

Every plan gives each operator one of its candidate precisions at random (seeded), so boundaries of all kinds arise;
tensor formats and operators without weights are chosen as `optimize` chooses them. Kernels and boundaries come from the
latency database, measured where it lacks them, and the correction is fitted to the networks `optimize` fits it to,
which are none of the plans. Then all are timed in turns, in one process: measured here is what was never seen by the
model. Nothing depends on the values of inputs, which are noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from command_line import say
from predictor import model_path

from tvm_mpq.execute.network import summary
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.tables import Tables, build_tables, corrected, plan_of, references
from tvm_mpq.schema import Plan
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Problem
from tvm_mpq.tuning.predictor.heldout import spearman

MEDIAN, WORST, RANK = 0.05, 0.10, 0.95
"""What is aimed at: relative errors at most, rank correlation at least."""


def random_choices(problem: Problem, rng: np.random.Generator) -> dict[str, str]:
    """A precision for every operator with weights."""
    weighted = [o for o in problem.operators if any(o.exact_inputs)]
    return {o.name: str(rng.choice([c.label for c in o.choices])) for o in weighted}


def compare(context: RunContext, count: int, seed: int) -> dict[str, Any]:
    """Predict and measure `count` random plans of one network."""
    builds = context.build_cache(context.data.sample(0), Rounder(context, context.data))
    tables = build_tables(context)
    rng = np.random.default_rng(seed)
    drawn = {f"plan {i}": random_choices(tables.problem, rng) for i in range(count)}
    uniform = references(tables)
    known = {name: plan_of(context, tables, s) for name, s in uniform.items()}
    solutions = {name: cost(tables.problem, choices) for name, choices in drawn.items()}
    plans = {name: plan_of(context, tables, s) for name, s in solutions.items()}
    for plan in (*known.values(), *plans.values()):
        say(f"compiling {summary(plan)}")
        builds.build(plan)
    times = builds.measure({**known, **plans})
    measured = {name: time.median_us for name, time in times.items()}
    final = corrected(context, tables, [(uniform[name], measured[name]) for name in known])
    predicted = {name: price(final.problem, s.choices, s.formats).latency_us for name, s in solutions.items()}
    return _report(context, final, plans, solutions, predicted, measured)


def _report(
    context: RunContext,
    tables: Tables,
    plans: dict[str, Plan],
    solutions: dict[str, Solution],
    predicted: dict[str, float],
    measured: dict[str, float],
) -> dict[str, Any]:
    rows = [
        {
            "plan": summary(plans[name]),
            "conversions": len(solutions[name].conversions),
            "sum_us": solutions[name].latency_us,
            "predicted_us": predicted[name],
            "measured_us": measured[name],
            "error": predicted[name] / measured[name] - 1,
        }
        for name in plans
    ]
    errors = np.abs([row["error"] for row in rows])
    pair = (np.array([row[k] for row in rows]) for k in ("measured_us", "predicted_us"))
    return {
        "network": context.prepared.loaded.name,
        "device": context.device.key,
        "correction": vars(tables.correction),
        "plans": rows,
        "median": float(np.median(errors)),
        "worst": float(errors.max()),
        "spearman": spearman(*pair),
    }


def show(report: dict[str, Any]) -> None:
    terms = ", ".join(f"{name} {value:.3g}" for name, value in report["correction"].items())
    print(f"\n{report['network']} on {report['device']}; correction: {terms}")
    print(f"{'sum us':>9s} {'predicted':>9s} {'measured':>9s} {'error':>7s} {'boundaries':>10s}  plan")
    for row in report["plans"]:
        print(
            f"{row['sum_us']:9.1f} {row['predicted_us']:9.1f} {row['measured_us']:9.1f} {row['error']:+7.1%} "
            f"{row['conversions']:10d}  {row['plan']}"
        )
    met = report["median"] <= MEDIAN and report["worst"] <= WORST and report["spearman"] >= RANK
    print(
        f"error: median {report['median']:.1%} (bar {MEDIAN:.0%}), worst {report['worst']:.1%} (bar {WORST:.0%}); "
        f"Spearman {report['spearman']:.3f} (bar {RANK:g}): {'met' if met else 'NOT met'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder of the trained networks' files")
    parser.add_argument("--networks", default="resnet20,mobilenetv2")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    reports = []
    for name in options.networks.split(","):
        model = model_path(name, options.shared, options.db.parent)
        few = {"calibration_samples": 1, "sensitivity_samples": 1}
        with open_context(Options(model, threads=options.threads, db=options.db, say=say, **few)) as context:
            reports.append(compare(context, options.plans, options.seed))
        show(reports[-1])
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
