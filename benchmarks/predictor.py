"""The latency predictor on layers it never saw, and plans made from tables that are measured in part.

    taskset -c 0 python benchmarks/predictor.py --shared FOLDER --db FILE            fill tables, then evaluate
    taskset -c 0 python benchmarks/predictor.py --shared FOLDER --db FILE --read     evaluate what FILE holds

Tables are the project's own: every kernel and boundary that `optimize` would measure for the precisions below, by its
own measurement; what FILE holds is not measured again, so the first command may be interrupted and repeated. Test
entries whose shape is in a training network, at whatever precision, are left out.

Plans are replayed from the tables: whoever asks for the fastest plan within a loss limit gets, at `--fraction`, a plan
whose latency by the fully measured table is set beside that of the plan made from that table. Losses are invented:
fewer bits lose more, seeded. `tuning.py fraction` runs `optimize` itself, by the clock.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
from command_line import say
from networks import NETWORKS

from tvm_mpq.costs import measured
from tvm_mpq.costs.measured import look_up
from tvm_mpq.costs.predicted import REFUSED_AT_ONCE, UP_FRONT
from tvm_mpq.costs.profiler import latency_key
from tvm_mpq.costs.table import LatencyTable, optimistic_estimate_us
from tvm_mpq.errors import MeasurementError
from tvm_mpq.kernels.registry import Request, default_kernel
from tvm_mpq.passes.graph import WEIGHTED_KINDS
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.problem import Space, build_problem
from tvm_mpq.schema import LatencyKey, LatencyRecord
from tvm_mpq.select.ilp import Limits, Solution, solve
from tvm_mpq.select.problem import Problem, emitted_class
from tvm_mpq.tuning.predictor import Entry, MachineFacts, Predictor, heldout, most_informative

PRECISIONS = ("fp32", "w8a8", "w4a8", "w2a4", "w1a4")
TRAIN, TEST, PLANS = "resnet18,resnet50,squeezenet1_1", "mobilenetv2,resnet20", "resnet18,mobilenetv2,resnet20"
CHUNK = 24
"""Entries between two safe points of filling a table."""
LOSS_LIMIT = 0.35
"""Share of the loss of the fastest plan that a plan may have."""

Records = dict[LatencyKey, LatencyRecord]


def model_path(name: str, shared: Path | None, folder: Path) -> Path:
    """A network's file; one with random weights is written into `folder` when it is not there."""
    source = NETWORKS[name]
    if source.onnx is not None:
        if shared is None:
            raise SystemExit(f"{name} needs --shared FOLDER")
        return shared / source.onnx
    path = folder / f"{name}.onnx"
    if not path.exists():
        models.export(name, path)
    return path


def open_network(name: str, shared: Path | None, db: Path) -> RunContext:
    return open_context(Options(model_path(name, shared, db.parent), db=db))


def space_of(context: RunContext) -> Space:
    return Space(context.prepared.graph, context.prepared.features, context.prepared.threads)


def requests_of(context: RunContext) -> list[Request]:
    return [r for r in space_of(context).requests() if str(r.precision) in PRECISIONS]


def fill(context: RunContext) -> None:
    """Measure what is missing, some entries at a time; what stays unsteady is left out and named."""
    requests = requests_of(context)
    for start in range(0, len(requests), CHUNK):
        try:
            measured.fill(context.profiler(), requests[start : start + CHUNK])
        except MeasurementError as e:
            say(f"left out: {e}")
        say(f"{context.prepared.loaded.name}: {min(start + CHUNK, len(requests))} of {len(requests)}")


def known(context: RunContext) -> Records:
    """Records of the network's kernels as they are compiled now."""
    table = LatencyTable(context.prepared.row.name)
    look_up(context.profiler(), table, requests_of(context))
    return {record.key: record for record in table.records.values()}


def microseconds(record: LatencyRecord) -> float:
    assert record.median_us is not None
    return record.median_us


def evaluate(train: Records, test: Records, machine: MachineFacts) -> dict[str, Any]:
    """Train on one set, predict the shapes of the other that it does not hold."""
    entries = [Entry(key, machine) for key in train]
    predictor = Predictor(entries, [microseconds(r) for r in train.values()])
    seen = {e.shape_group for e in entries}
    tested = [(e, r) for e, r in ((Entry(k, machine), r) for k, r in test.items()) if e.shape_group not in seen]
    found = predictor.predict([e for e, _ in tested])
    rows = [(e, microseconds(r), p) for (e, r), p in zip(tested, found, strict=True)]
    kept = [(e, us, p) for e, us, p in rows if p.refused is None]
    truth, guess = (np.array([x[i] for x in ((us, p.median_us) for _, us, p in kept)]) for i in (0, 1))
    errors = heldout.errors_of([e.operator_class for e, _, _ in kept], truth, guess, len(rows) - len(kept))
    inside = [p.low_us <= us <= p.high_us for _, us, p in kept]
    refusals: dict[str, int] = {}
    for e, _, p in rows:
        if p.refused is not None:
            refusals[e.operator_class] = refusals.get(e.operator_class, 0) + 1
    worst = sorted(kept, key=lambda row: -abs(row[2].median_us / row[1] - 1))[:12]
    return {
        "trained_on": len(entries),
        "tested": len(rows),
        "held_out": predictor.held_out.to_json(),
        "errors": errors.to_json(),
        "refused_by_class": refusals,
        "coverage": float(np.mean(inside)) if inside else None,
        "worst": [[e.key.workload, e.key.precision, e.key.out_bits, us, p.median_us] for e, us, p in worst],
    }


def show(title: str, report: Mapping[str, Any]) -> None:
    print(f"\n{title}: trained on {report['trained_on']} entries, tested on {report['tested']} of unseen shapes")
    print(f"{'class':12s} {'entries':>8s} {'refused':>8s} {'MAPE':>8s} {'worst':>8s} {'Spearman':>9s}")
    rows, refused = report["errors"]["by_class"], report["refused_by_class"]
    for name in (*rows, *(n for n in sorted(refused) if n not in rows)):
        e = rows.get(name, {"count": 0, "mape": None, "worst": None, "spearman": None})
        gone = sum(refused.values()) if name == heldout.ALL else refused.get(name, 0)
        texts = [f"{e[k]:8.1%}" if e[k] is not None else f"{'-':>8s}" for k in ("mape", "worst")]
        rank = f"{e['spearman']:9.3f}" if e["spearman"] is not None else f"{'-':>9s}"
        print(f"{name:12s} {e['count']:8d} {gone:8d} {' '.join(texts)} {rank}")
    overall, own = rows[heldout.ALL], report["held_out"]["by_class"][heldout.ALL]
    print(f"intervals of 90 % held {report['coverage']:.1%}; held-out error stated beforehand: {own['mape']:.1%}")
    met = overall["mape"] <= 0.15 and overall["spearman"] >= 0.95
    print(f"bar MAPE <= 15 % and Spearman >= 0.95: {'met' if met else 'NOT met'}")


def losses_of(context: RunContext) -> dict[tuple[str, str], float]:
    rng = np.random.default_rng(0)
    scale = {"w8a8": 0.02, "w4a8": 0.3, "w2a4": 2.0, "w1a4": 6.0}
    return {
        (node.name, label): float(scale.get(label, 1.0) * rng.lognormal(0, 1))
        for node in context.prepared.graph.weighted()
        for label in node.candidates
        if label != "fp32"
    }


def problem_of(context: RunContext, us: Callable[[Request], float]) -> Problem:
    return build_problem(
        space_of(context), us, LatencyTable("default kernels"), losses_of(context), fixed_us=0.0, call_us=0.3
    )


def best(problem: Problem) -> Solution:
    """The fastest plan within the loss limit."""
    fastest = solve(problem, objective="latency")
    return solve(problem, Limits(loss=LOSS_LIMIT * fastest.loss), objective="latency")


def used(space: Space, solution: Solution) -> Iterator[Request]:
    """Requests that a solution runs."""
    for node in space.graph.nodes:
        formats = solution.formats
        if node.kind == "layout":
            yield space.conversions(node.output)[formats[node.output], formats[node.output]]
        elif node.kind not in ("float", "reshape"):
            label = solution.choices[node.name]
            yield space.options(node)[label][emitted_class(formats[node.output])]
    for conversion in solution.conversions:
        tensor, source, to = conversion
        yield space.conversions(tensor)[source, to]


def price(context: RunContext, truth: Problem, solution: Solution) -> float:
    """Microseconds of a plan's choices and formats by the measured table."""
    weighted = [n.name for n in context.prepared.graph.nodes if n.kind in WEIGHTED_KINDS]
    return solve(truth, objective="latency", keep={name: solution.choices[name] for name in weighted}).latency_us


def replay(context: RunContext, records: Records, fraction: float) -> dict[str, Any]:
    """`optimize --measure-fraction` from an empty database, its measurements taken from `records`."""
    machine = MachineFacts.of(context.prepared.row)
    keys = {r.key: latency_key(default_kernel(r), context.prepared.row.name) for r in requests_of(context)}
    missing = sorted({k for k in keys.values() if k in records}, key=str)
    entries = [Entry(k, machine) for k in missing]
    times: dict[LatencyKey, float] = {}

    def expected_us(request: Request) -> float:
        return times.get(keys[request.key], np.inf) if request.key in keys else np.inf

    def known_us(request: Request) -> float:
        record = records.get(keys[request.key]) if request.key in keys else None
        return np.inf if record is None else microseconds(record)

    measured = {missing[i] for i in most_informative([], entries, UP_FRONT * fraction)}
    up_front = len(measured)
    while True:
        learned = [e for e in entries if e.key in measured]
        predictor = Predictor(learned, [microseconds(records[e.key]) for e in learned])
        asked = [e for e in entries if e.key not in measured]
        found = dict(zip([e.key for e in asked], predictor.predict(asked), strict=True))
        gone = [e for e in asked if found[e.key].refused is not None]
        if not gone:
            break
        measured |= {gone[i].key for i in most_informative(learned, gone, REFUSED_AT_ONCE)}
    refused = len(measured) - up_front
    times |= {key: microseconds(records[key]) for key in measured}
    times |= {key: optimistic_estimate_us(p.median_us, p.stated_error) for key, p in found.items()}
    rounds = 0
    while True:
        rounds += 1
        solution = best(problem_of(context, expected_us))
        fresh = {keys[r.key] for r in used(space_of(context), solution)} - measured
        if not fresh:
            break
        measured |= fresh
        times |= {key: microseconds(records[key]) for key in fresh}
    truth = problem_of(context, known_us)
    return {
        "entries": len(missing),
        "refused": refused,
        "share_measured": len(measured) / len(missing),
        "rounds": rounds,
        "latency_ratio": price(context, truth, solution) / best(truth).latency_us,
        "held_out": predictor.held_out.overall.mape,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder of the trained networks' files")
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--train", default=TRAIN)
    parser.add_argument("--test", default=TEST)
    parser.add_argument("--also", default="", help="networks to train on beside --train, as a second evaluation")
    parser.add_argument("--plans", default=PLANS, help="networks to plan for")
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--read", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    def names(text: str) -> Sequence[str]:
        return [n for n in text.split(",") if n]

    asked = dict.fromkeys([*names(options.train), *names(options.test), *names(options.also), *names(options.plans)])
    contexts = {name: open_network(name, options.shared, options.db) for name in asked}
    if not options.read:
        for context in contexts.values():
            fill(context)
    tables = {name: known(context) for name, context in contexts.items()}
    for name, context in contexts.items():
        print(f"{name}: {len(tables[name])} of {len(requests_of(context))} entries measured")
    machine = MachineFacts.of(next(iter(contexts.values())).prepared.row)

    def together(wanted: Sequence[str]) -> Records:
        return {key: record for name in wanted for key, record in tables[name].items()}

    report: dict[str, Any] = {"device": next(iter(contexts.values())).device.key, "plans": {}}
    test = together(names(options.test))
    report["unseen"] = evaluate(together(names(options.train)), test, machine)
    show(f"{options.train} -> {options.test}", report["unseen"])
    if options.also:
        report["also"] = evaluate(together([*names(options.train), *names(options.also)]), test, machine)
        show(f"{options.train},{options.also} -> {options.test}", report["also"])
    for name in names(options.plans):
        if len(tables[name]) < len(requests_of(contexts[name])):
            print(f"\n{name}: no plan, its table has gaps; run without --read to fill it")
            continue
        row = report["plans"][name] = replay(contexts[name], tables[name], options.fraction)
        print(
            f"\n{name}, {options.fraction:g} of {row['entries']} entries measured, replayed: "
            f"plan {row['latency_ratio'] - 1:+.1%} of the fully measured plan's latency (bar 3 %); measured in the end "
            f"{row['share_measured']:.0%} ({row['refused']} refused), {row['rounds']} solves"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
