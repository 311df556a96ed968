"""Whether losses of pairs of operators say more of whole plans than the sum of single losses does.

    python benchmarks/pair_losses.py MODEL.onnx --data CALIB.npz --eval TEST.npz --db FILE [--plans 30] [--most 6]

The most sensitive operators are changed together with each neighbour, at the precision of each that loses its
median: c = (L_ab - L_a - L_b) / sqrt(L_a L_b), within -2 and 2, as it were if losses were squares of errors that add
up. A plan then loses sum L + sum c sqrt(L L) over these pairs. Beside both stands the square of the sum of square
roots, as if c were 2 for every two operators: so do losses that grow with the fourth power of errors.

Plans are random (seeded, `sensitivity.py`), each is run whole on the images that losses were learned from, and on the
others. Weights are rounded to nearest. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from command_line import say
from sensitivity import random_operators

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import Dataset, load_dataset
from tvm_mpq.calibrate.sensitivity import Loss, Trial, measure_losses, predict
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import metric_for
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import lower
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.schema import W8A8, Plan, Precision
from tvm_mpq.tuning.predictor.heldout import spearman

SAID = ("sum", "with pairs", "roots")
"""What is predicted, by the names of columns."""

Losses = Mapping[tuple[str, str], float]


def neighbours(graph: Graph) -> list[tuple[str, str]]:
    """Operators with weights of which the second reads what the first makes, with none between them."""
    weighted = {node.name for node in graph.weighted()}
    made_by: dict[str, set[str]] = {}  # tensor -> operators with weights that are behind it
    found = []
    for node in graph.nodes:
        behind = set().union(*(made_by.get(name, set()) for name in node.inputs))
        if node.name in weighted:
            found += [(name, node.name) for name in sorted(behind)]
        made_by[node.output] = {node.name} if node.name in weighted else behind
    return found


def median_precision(losses: Losses, operator: str) -> str:
    """The precision below 8 bits at which an operator loses its median."""
    own = {p: loss for (o, p), loss in losses.items() if o == operator and p != str(W8A8) and 0 < loss < math.inf}
    middle = statistics.median_low(own.values())
    return next(p for p, loss in own.items() if loss == middle)


def together(
    context: RunContext, frame: Plan, used: Dataset, losses: Losses, most: int
) -> dict[tuple[str, str], float]:
    """c of every pair of neighbours of which one is among the most sensitive. used: what `losses` were measured on."""
    prepared, options = context.prepared, context.options
    graph = prepared.graph
    names = [node.name for node in graph.weighted()]
    at = {name: median_precision(losses, name) for name in names}
    first = sorted(names, key=lambda name: -losses[name, at[name]])[:most]
    pairs = [pair for pair in neighbours(graph) if set(pair) & set(first)]
    todo = []
    for a, b in pairs:
        operators = {**frame.operators, a: at[a], b: at[b]}
        plan = Plan(frame.target, frame.tvm_target_attrs, operators, frame.tensors, frame.formats)
        steps = emulated_on_int8(lower(graph, plan, prepared.features), context.store)
        todo.append(Trial(f"{a}|{b}", Precision.parse(at[a]), tuple(steps)))
    floats = lower(graph, frame, prepared.features)
    found = context.interpret(
        lambda run: measure_losses(
            run, floats, todo, learn.graph_samples(prepared, used), None, progress=options.progress
        )
    )
    metric = metric_for(graph)
    cross = {}
    for (a, b), trial in zip(pairs, todo, strict=True):
        la, lb = losses[a, at[a]], losses[b, at[b]]
        both = found[trial.operator, str(trial.precision)].mean(metric)
        cross[a, b] = min(2.0, max(-2.0, (both - la - lb) / math.sqrt(la * lb)))
        say(f"{a} {at[a]}, {b} {at[b]}: alone {la:.3g} and {lb:.3g}, together {both:.3g}, c {cross[a, b]:.2f}")
    return cross


def compare(context: RunContext, evaluation: Path, count: int, most: int, seed: int) -> dict[str, object]:
    """Rank correlations of predicted and real losses of random plans."""
    options, prepared = context.options, context.prepared
    parts, held = context.parts, load_dataset(evaluation, prepared.inputs)
    known = parts.judged.head(options.sensitivity_samples)
    ranges = context.interpret(lambda run: context.learner.ranges(run, context.data))
    frame = learn.bare_plan(prepared, ranges)
    found = context.interpret(lambda run: context.learner.losses(run, frame, parts))
    losses = context.learner.table(found)
    cross = together(context, frame, known, losses, most)
    images = {"known images": known, "other images": held}

    def outputs(plan: Plan, of: Dataset) -> list[Array]:
        steps = emulated_on_int8(network.all_steps(prepared, plan, WeightCodes()), context.store)
        return context.interpret(lambda run: list(predict(run, steps, learn.graph_samples(prepared, of))))

    reference = {name: outputs(frame, of) for name, of in images.items()}
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    for _ in range(count):
        chosen = random_operators(list(prepared.graph.weighted()), rng)
        plan = Plan(frame.target, frame.tvm_target_attrs, chosen, ranges)
        single = math.fsum(losses[item] for item in chosen.items())
        pairs = math.fsum(c * math.sqrt(losses[a, chosen[a]] * losses[b, chosen[b]]) for (a, b), c in cross.items())
        roots = math.fsum(math.sqrt(losses[item]) for item in chosen.items())
        row = {"sum": single, "with pairs": single + pairs, "roots": roots**2}
        for name, of in images.items():
            sums = Loss()
            for wide, narrow in zip(reference[name], outputs(plan, of), strict=True):
                sums.add(wide, narrow, None)
            row[name] = sums.mean(metric_for(prepared.graph))
        rows.append(row)
        say(json.dumps(row))
    return {
        "network": prepared.loaded.name,
        "pairs": len(cross),
        "plans": count,
        **{f"{said}, {name}": _rank(rows, said, name) for said in SAID for name in images},
    }


def _rank(rows: Sequence[Mapping[str, float]], said: str, real: str) -> float:
    return round(spearman(np.array([r[said] for r in rows]), np.array([r[real] for r in rows])), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--db", required=True)
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    options = Options(arguments.model, data=arguments.data, db=arguments.db, rounding="nearest", say=say)
    with open_context(options) as context:
        report = compare(context, arguments.eval, arguments.plans, arguments.most, arguments.seed)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
