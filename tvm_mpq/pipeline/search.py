"""What each budget would buy: the Pareto front of a network, uniform plans included."""

from __future__ import annotations

from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.front import front_point
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.tables import build_tables, corrected_tables
from tvm_mpq.report.answers import SearchReport
from tvm_mpq.select.pareto import front
from tvm_mpq.select.uniforms import uniform_plans


def search(options: Options, *, points: int, axis: str) -> SearchReport:
    """Sweep budgets over measured tables; only the uniform networks are built, to correct them.

    axis: `latency` or `size`, against loss. Uniform plans are priced by the same tables and marked when dominated.
    """
    with open_context(options) as context:
        return _search(context, options, points, axis)


def _search(context: RunContext, options: Options, points: int, axis: str) -> SearchReport:
    data = context.data
    tables = corrected_tables(
        context, build_tables(context, data), context.build_cache(data.sample(0), Rounder(context, data))
    )
    options.tell("selecting")
    names = sorted(n.name for n in context.prepared.graph.weighted())
    found = front(tables.problem, axis, points, searcher=options.searcher(), given=uniform_plans(tables.problem))
    return {
        "model": context.prepared.loaded.name,
        "method": options.method,
        "axis": axis,
        "points": [front_point(point, names) for point in found],
        "latency_entries": tables.latency.entries,
        **context.condition(),
    }
