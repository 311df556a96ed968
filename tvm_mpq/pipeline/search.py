"""What each budget would buy: the Pareto front of a network, uniform plans included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tvm_mpq.pipeline.bits import BitLearner, require_what_searches
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.entries import EntryStore, RememberingSearcher
from tvm_mpq.pipeline.front import front_point
from tvm_mpq.pipeline.options import Options, check_output
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.search_states import states_of
from tvm_mpq.pipeline.tables import Tables, build_tables, corrected_tables, plan_of
from tvm_mpq.report.answers import SearchReport
from tvm_mpq.select.choose import limits_of
from tvm_mpq.select.pareto import ParetoPoint, front
from tvm_mpq.select.uniforms import uniform_plans


def search(options: Options, *, points: int, axis: str, plans: str | Path | None = None) -> SearchReport:
    """Sweep budgets over measured tables; only the uniform networks are built, to correct them.

    axis: `latency`, `size` or, of a source that gives it, `energy`, against loss. The options' budget, its drop aside,
    is kept by the points of the front. Uniform plans are priced by the same tables and marked when dominated. plans: a
    folder that gets every plan as a JSON file, with the ranges of its tensors; `build --plan` takes them.

    Raises
    ------
    InvalidValueError
        For the axis `energy` where the latency source gives none.
    OutputError
        If the folder for the plans cannot be written.
    """
    options.require_axis(axis)
    folder = None if plans is None else check_output(plans)
    with open_context(options) as context:
        return _search(context, options, points, axis, folder)


def _search(context: RunContext, options: Options, points: int, axis: str, folder: Path | None) -> SearchReport:
    require_what_searches(context, [options.method])
    builds = context.build_cache(context.data.sample(0), Rounder(context, context.parts.rounded))
    tables = corrected_tables(context, build_tables(context), builds)
    options.tell("selecting")
    names = sorted(n.name for n in context.prepared.graph.quantizable())
    limits = limits_of(options.budget, tables.int8.latency_us)
    given = uniform_plans(tables.problem)
    searcher = RememberingSearcher(
        EntryStore(context, tables.problem),
        options.method,
        options.searcher(bits=BitLearner(context, tables.plan), memories=states_of(context)),
    )
    found = front(tables.problem, axis, points, limits=limits, searcher=searcher, given=given)
    saved = {} if folder is None else _saved(context, tables, found, folder)
    return {
        "model": context.prepared.loaded.name,
        "method": options.method,
        "latency_source": options.latency_source,
        "axis": axis,
        "points": [front_point(point, names) for point in found],
        "latency_entries": tables.latency.entries,
        "plans": saved,
        **context.condition(),
    }


def _saved(context: RunContext, tables: Tables, found: Sequence[ParetoPoint], folder: Path) -> dict[str, str]:
    """Write every plan; name, or `front N` where it has none, -> file."""
    files = {}
    for i, point in enumerate(found, 1):
        name = point.name or f"front {i}"
        solution = point.solution
        costs = {"latency_us": solution.latency_us, "energy_mj": solution.energy_mj, "loss": solution.loss}
        info = {"latency_source": context.options.latency_source, **costs}
        path = folder / f"{name.replace(' ', '-')}.json"
        dataclasses.replace(plan_of(context, tables, solution), info=info).save(path)
        files[name] = str(path)
    return files
