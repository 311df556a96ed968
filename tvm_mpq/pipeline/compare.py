"""Search methods side by side on one network: what each finds within each budget, beside the solver's bound."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.errors import DataError, InvalidValueError, MissingDependencyError
from tvm_mpq.execute.accuracy import check_labels, classifies
from tvm_mpq.execute.build_cache import NetworkBuildCache
from tvm_mpq.pipeline.bits import BitLearner, require_what_searches
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.tables import Tables, build_tables, corrected_tables, plan_of
from tvm_mpq.report.answers import CompareReport, MethodRow
from tvm_mpq.select.choose import limits_of
from tvm_mpq.select.contest import Found, contest
from tvm_mpq.select.methods.table import METHODS


def compare(
    options: Options, *, methods: Sequence[str], budgets: Sequence[float], measure: bool, axis: str = "latency"
) -> CompareReport:
    """Every method within every budget, priced by the same tables.

    methods: of `METHODS`, or `all` that have what they need. budgets: shares of what uniform 8 bit takes of `axis`:
    `latency`, or `energy` of a source that gives it. The options' own budget, its drop aside, is kept beside each.
    measure: also build every plan found and time it in turns with the others; with evaluation data in the options they
    are built, timed and run on those.

    Raises
    ------
    InvalidValueError
        For an unknown method, a budget that is no share, an energy that the latency source does not give, and where
        plans priced for a simulated machine are to be built.
    MissingDependencyError
        Where a method that is named needs an extra that is not installed.
    """
    options.require_axis(axis)
    if measure or options.eval_data is not None:
        options.require_measured("compare with --measure or --eval")
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
    data = context.data
    builds = context.build_cache(data.sample(0), Rounder(context, data))
    tables = corrected_tables(context, build_tables(context, data), builds)
    learner = BitLearner(context, tables.plan)
    int8 = tables.int8
    entries = contest(
        tables.problem,
        int8.quantity(axis),
        budgets,
        methods,
        lambda method: options.searcher(method, learner),
        time.perf_counter,
        options.tell,
        quantity=axis,
        within=limits_of(options.budget, int8.latency_us),
    )
    rows = [_row(context, entry, int8.quantity(axis), axis) for entry in entries]
    metric = ""
    if measure or options.eval_data is not None:
        metric = _verify(context, options, tables, builds, entries, rows)
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
        "rows": rows,
        "latency_entries": tables.latency.entries,
        **context.condition(),
    }


def _row(context: RunContext, entry: Found, int8: float, axis: str) -> MethodRow:
    solution = entry.solution
    names = sorted(n.name for n in context.prepared.graph.weighted())
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


def _verify(
    context: RunContext,
    options: Options,
    tables: Tables,
    builds: NetworkBuildCache,
    entries: Sequence[Found],
    rows: Sequence[MethodRow],
) -> str:
    """Build and time every plan in turns, run it on the evaluation data where there are; returns the metric's name."""
    solutions = {str(i): e.solution for i, e in enumerate(entries) if e.solution is not None}
    plans = {name: plan_of(context, tables, s) for name, s in {"fp32": tables.fp32, **solutions}.items()}
    predicted = {name: s.latency_us for name, s in {"fp32": tables.fp32, **solutions}.items()}
    options.tell("building and timing the plans")
    if options.eval_data is None:
        for name, time_of in builds.measure(plans, predicted).items():
            if name in solutions:
                rows[int(name)]["measured_ms"] = time_of.median_us / 1000
        return ""
    data = load_dataset(options.eval_data, context.prepared.inputs)
    check_labels(data.labels, classifies=classifies(context.prepared.graph))
    checked = builds.check(plans, data.samples(), data.labels, predicted)
    for name in solutions:
        rows[int(name)]["measured_ms"] = checked[name].median_us / 1000
        rows[int(name)]["accuracy"] = checked[name].accuracy.value
    return checked["fp32"].accuracy.metric
