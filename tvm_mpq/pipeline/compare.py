"""Search methods side by side on one network: what each finds within each budget, beside the solver's bound."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence

from tvm_mpq.errors import DataError, InvalidValueError, MissingDependencyError
from tvm_mpq.execute.build_cache import NetworkBuildCache
from tvm_mpq.pipeline.bits import BitLearner, require_what_searches
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.entries import EntryStore
from tvm_mpq.pipeline.held import HeldImages, HeldRun
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.search_states import states_of
from tvm_mpq.pipeline.tables import Tables, build_tables, corrected_tables, estimated_losses, plan_of
from tvm_mpq.report.answers import CompareReport, MethodRow, UniformRow
from tvm_mpq.select.choose import limits_of
from tvm_mpq.select.contest import Found, contest
from tvm_mpq.select.disagreement import Held, disagreement
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.table import ILP, METHODS


def compare(
    options: Options, *, methods: Sequence[str], budgets: Sequence[float], measure: bool, axis: str = "latency"
) -> CompareReport:
    """Every method within every budget, priced by the same tables.

    methods: of `METHODS`, or `all` that have what they need. budgets: shares of what uniform 8 bit takes of `axis`:
    `latency`, or `energy` of a source that gives it. The options' own budget, its drop aside, is kept beside each.
    measure: also build every plan found and time it in turns with the others. With evaluation data in the options all
    plans are run on those, step by step, and where a plan that loses more by the table gets more of them right, the
    report says why. What a method found is kept in the database: the same call begun again goes on where it ended.

    Raises
    ------
    InvalidValueError
        For an unknown method, a budget that is no share, an energy that the latency source does not give, and where
        plans priced for a simulated machine are to be built.
    MissingDependencyError
        Where a method that is named needs an extra that is not installed.
    """
    options.require_axis(axis)
    if measure:
        options.require_measured("compare with --measure")
    everything = list(methods) == ["all"]
    chosen = available_methods(options) if everything else tuple(dict.fromkeys(methods))
    for method in chosen:
        options.searcher(method)
    if not chosen or not budgets:
        raise InvalidValueError("at least one method and one budget are needed (got none)")
    for share in budgets:
        if not (math.isfinite(share) and share > 0):
            raise InvalidValueError(f"a budget is a share of uniform 8 bit and must be above 0 (got {share:g})")
    with open_context(options) as context:
        if everything:
            chosen = _ready(options, chosen, lambda method: require_what_searches(context, [method]))
        require_what_searches(context, chosen)
        return _compare(context, options, chosen, budgets, measure, axis)


def available_methods(options: Options) -> tuple[str, ...]:
    """All methods but those whose extra is not installed, which is said."""
    return _ready(options, METHODS, options.searcher)


def _ready(options: Options, methods: Sequence[str], require: Callable[[str], object]) -> tuple[str, ...]:
    """Those that have what they require, an extra or data; of the others the user is told."""
    found = []
    for method in methods:
        try:
            require(method)
        except (DataError, MissingDependencyError) as e:
            options.tell(f"left out: {e}")
        else:
            found.append(method)
    return tuple(found)


def _compare(
    context: RunContext, options: Options, methods: Sequence[str], budgets: Sequence[float], measure: bool, axis: str
) -> CompareReport:
    rounder = Rounder(context, context.parts.rounded)
    builds = context.build_cache(context.data.sample(0), rounder)
    tables = corrected_tables(context, build_tables(context), builds)
    learner, states = BitLearner(context, tables.plan), states_of(context)
    int8 = tables.int8
    entries = contest(
        tables.problem,
        int8.quantity(axis),
        budgets,
        methods,
        lambda method: options.searcher(
            method, learner, lambda problem: estimated_losses(context, tables.plan), states
        ),
        time.perf_counter,
        options.tell,
        quantity=axis,
        within=limits_of(options.budget, int8.latency_us),
        recall=EntryStore(context, tables.problem),
    )
    rows = [_row(context, entry, int8.quantity(axis), axis) for entry in entries]
    solutions = {str(i): e.solution for i, e in enumerate(entries) if e.solution is not None}
    metric, reasons = "", list[str]()
    uniform: list[UniformRow] = []
    if options.eval_data is not None:
        metric, reasons, uniform = _judge(context, tables, rounder, solutions, rows)
    if measure:
        _time(context, tables, builds, solutions, rows)
    return {
        "model": context.prepared.loaded.name,
        "target": context.prepared.row.name,
        "device": context.device.key,
        "latency_source": options.latency_source,
        "axis": axis,
        "int8_ms": int8.latency_us / 1000,
        "int8_mj": int8.energy_mj,
        "seed": options.seed,
        "free_bits": options.free_bits,
        "metric": metric,
        "disagreements": reasons,
        "uniform": uniform,
        "rows": rows,
        "latency_entries": tables.latency.entries,
        **context.condition(),
    }


def _row(context: RunContext, entry: Found, int8: float, axis: str) -> MethodRow:
    solution = entry.solution
    names = sorted(n.name for n in context.prepared.graph.quantizable())
    row: MethodRow = {
        "method": entry.method,
        "budget": entry.share,
        "reason": entry.reason,
        "bound": entry.bound,
        "gap": entry.gap,
        "seconds": entry.seconds,
        "loss": None,
        "predicted_ms": None,
        "ratio": None,
        "size_mb": None,
        "energy_mj": None,
        "evaluations": 0,
        "status": "",
        "plan": {},
        "measured_ms": None,
        "accuracy": None,
        "held_loss": None,
        "trace": [dataclasses.astuple(point) for point in entry.trace],
    }
    if solution is not None:
        row |= {
            "loss": solution.loss,
            "predicted_ms": solution.latency_us / 1000,
            "ratio": solution.quantity(axis) / int8,
            "size_mb": solution.size_bytes / 1e6,
            "energy_mj": solution.energy_mj,
            "evaluations": solution.evaluations,
            "status": solution.status,
            "plan": {name: solution.choices[name] for name in names},
        }
    return row


def _judge(
    context: RunContext, tables: Tables, rounder: Rounder, solutions: Mapping[str, Solution], rows: Sequence[MethodRow]
) -> tuple[str, list[str], list[UniformRow]]:
    """Run every plan on the evaluation data; returns the metric's name, why accuracy disagrees with the table where it
    does, and the same of uniform fp32 and 8 bit."""
    context.options.tell("running the plans on the evaluation data")
    plans = {name: plan_of(context, tables, s) for name, s in {"w8a8": tables.int8, **solutions}.items()}
    runs = HeldImages(context, rounder, tables.plan)({"fp32": tables.plan, **plans})
    for name in solutions:
        row = rows[int(name)]
        row["accuracy"], row["held_loss"] = runs[name].accuracy, runs[name].loss
    # A simulated machine has no floats: fp32 is run here, and has no price there.
    priced = {"w8a8": tables.int8} | ({} if context.options.simulator else {"fp32": tables.fp32})
    uniform: list[UniformRow] = [
        {
            "precision": name,
            "predicted_ms": priced[name].latency_us / 1000 if name in priced else None,
            "accuracy": runs[name].accuracy,
            "held_loss": runs[name].loss,
        }
        for name in ("fp32", "w8a8")
    ]
    known = HeldImages(context, rounder, tables.plan, context.parts.judged.head(context.options.sensitivity_samples))
    reasons = _disagreements(solutions, rows, runs, lambda name: known({name: plans[name]})[name].loss)
    return runs["fp32"].metric, reasons, uniform


def _disagreements(
    solutions: Mapping[str, Solution],
    rows: Sequence[MethodRow],
    runs: Mapping[str, HeldRun],
    known: Callable[[str], float],
) -> list[str]:
    """One line for each budget under which a method's plan beats the solver's on the evaluation data.

    known: the loss of a plan, run whole on the images that the tables' losses were learned from.
    """
    by_budget: dict[float, dict[str, Held]] = {}
    for name, solution in solutions.items():
        row, run = rows[int(name)], runs[name]
        held = Held(solution.loss, run.loss, run.accuracy, run.right, functools.partial(known, name))
        by_budget.setdefault(row["budget"], {})[row["method"]] = held
    said = {b: disagreement(found.pop(ILP), found) for b, found in by_budget.items() if ILP in found}
    return [f"{budget:g} of 8 bit: {text}" for budget, text in said.items() if text]


def _time(
    context: RunContext,
    tables: Tables,
    builds: NetworkBuildCache,
    solutions: Mapping[str, Solution],
    rows: Sequence[MethodRow],
) -> None:
    """Build every plan and time it in turns with the others."""
    context.options.tell("building and timing the plans")
    everything = {"fp32": tables.fp32, **solutions}
    plans = {name: plan_of(context, tables, s) for name, s in everything.items()}
    times = builds.measure(plans, {name: s.latency_us for name, s in everything.items()})
    for name in solutions:
        rows[int(name)]["measured_ms"] = times[name].median_us / 1000
