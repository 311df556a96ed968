"""What the sum of single operators' losses says of whole plans: predicted loss against real loss and real drop.

    python benchmarks/sensitivity.py --shared FOLDER --db FILE [--networks resnet20] [--plans 30] [--rounding gptq]

Plans are random (seeded): each has a share of its own of operators that take a random precision below w8a8, the others
stay at w8a8. Losses are what `optimize` adds up; each plan then runs end to end, with its weights rounded for it, on
images that nothing was calibrated on. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from command_line import say
from networks import material

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.calibrate.sensitivity import Loss, predict
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import metric_for
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Node
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.schema import W8A8, Plan, Precision
from tvm_mpq.tuning.predictor.heldout import spearman


def random_operators(nodes: list[Node], rng: np.random.Generator) -> dict[str, str]:
    """A precision for every operator with weights."""
    share = rng.uniform()
    found = {}
    for node in nodes:
        integers = [text for text in node.candidates if not Precision.parse(text).is_float]
        fewer = [text for text in integers if text != str(W8A8)]
        found[node.name] = str(rng.choice(fewer)) if fewer and rng.uniform() < share else str(W8A8)
    return found


def compare(context: RunContext, evaluation: Path, count: int, seed: int) -> dict[str, Any]:
    """Losses of `count` random plans of one network, predicted and real."""
    prepared = context.prepared
    held = load_dataset(evaluation, prepared.inputs)
    ranges = context.interpret(lambda run: context.learner.ranges(run, context.data))
    frame = learn.bare_plan(prepared, ranges)
    parts = context.parts
    found = context.interpret(lambda run: context.learner.losses(run, frame, parts))
    losses = context.learner.table(found)
    rounder = Rounder(context, parts.rounded)
    samples = learn.graph_samples(prepared, held)

    def outputs(plan: Plan, codes: WeightCodes) -> list[Array]:
        steps = emulated_on_int8(network.all_steps(prepared, plan, codes), context.store)
        return context.interpret(lambda run: list(predict(run, steps, samples)))

    reference = outputs(frame, WeightCodes())
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        operators = random_operators(list(prepared.graph.weighted()), rng)
        plan = Plan(frame.target, frame.tvm_target_attrs, operators, ranges)
        sums = Loss()
        for i, (wide, narrow) in enumerate(zip(reference, outputs(plan, rounder(plan)), strict=True)):
            sums.add(wide, narrow, None if held.labels is None else int(held.labels[i]))
        rows.append(
            {
                "plan": network.summary(plan),
                "predicted": sum(losses[item] for item in operators.items()),
                "loss": sums.mean(metric_for(prepared.graph)),
                "drop": 100 * sums.wrong / sums.samples,
                "disagree": 100 * sums.disagree / sums.samples,
            }
        )
        say(f"{rows[-1]}")
    columns = {name: np.array([row[name] for row in rows]) for name in ("predicted", "loss", "drop", "disagree")}
    ranks = {name: spearman(columns["predicted"], columns[name]) for name in ("loss", "drop", "disagree")}
    return {
        "network": prepared.loaded.name,
        "target": prepared.row.name,
        "rounding": rounder.method,
        "images": len(held),
        "plans": rows,
        "spearman": ranks,
    }


def show(report: dict[str, Any]) -> None:
    print(f"\n{report['network']} for {report['target']}, rounding {report['rounding']}, {report['images']} images")
    print(f"{'predicted':>10s} {'loss':>10s} {'drop':>7s} {'disagree':>8s}  plan")
    for row in sorted(report["plans"], key=lambda row: row["predicted"]):
        print(f"{row['predicted']:10.5f} {row['loss']:10.5f} {row['drop']:7.2f} {row['disagree']:8.2f}  {row['plan']}")
    ranks = ", ".join(f"{name} {value:.3f}" for name, value in report["spearman"].items())
    print(f"rank correlation (Spearman) of predicted loss with {ranks}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and dataset.py")
    parser.add_argument("--networks", default="resnet20")
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounding", default="gptq")
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    reports = []
    for name in options.networks.split(","):
        found = material(name, options.shared.resolve(), options.db.parent, 500, 1, accuracy=True)
        calibration, evaluation = (options.db.parent / f"{name}_{kind}.npz" for kind in ("calibration", "evaluation"))
        assert found.onnx is not None and found.evaluation is not None, f"{name} has no labelled images"
        np.savez(calibration, input=np.load(found.calibration))
        np.savez(evaluation, input=np.load(found.evaluation), labels=found.labels)
        given = Options(found.onnx, data=calibration, db=options.db, rounding=options.rounding, say=say)
        with open_context(given) as context:
            reports.append(compare(context, evaluation, options.plans, options.seed))
        show(reports[-1])
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
