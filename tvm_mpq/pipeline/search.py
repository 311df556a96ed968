"""What each budget would buy: the Pareto front of a network, uniform plans included."""

from __future__ import annotations

from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.front import front_point
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.tables import build_tables, corrected_tables
from tvm_mpq.report.answers import SearchReport
from tvm_mpq.select.choose import limits_of
from tvm_mpq.select.pareto import front
from tvm_mpq.select.uniforms import uniform_plans


def search(options: Options, *, points: int, axis: str) -> SearchReport:
    """Sweep budgets over measured tables; only the uniform networks are built, to correct them.

    axis: `latency`, `size` or, of a source that gives it, `energy`, against loss. The options' budget, its drop aside,
    is kept by the points of the front. Uniform plans are priced by the same tables and marked when dominated.

    Raises
    ------
    InvalidValueError
        For the axis `energy` where the latency source gives none.
    """
    options.require_axis(axis)
    with open_context(options) as context:
        return _search(context, options, points, axis)


def _search(context: RunContext, options: Options, points: int, axis: str) -> SearchReport:
    data = context.data
    tables = corrected_tables(
        context, build_tables(context, data), context.build_cache(data.sample(0), Rounder(context, data))
    )
    options.tell("selecting")
    names = sorted(n.name for n in context.prepared.graph.weighted())
    limits = limits_of(options.budget, tables.int8.latency_us)
    given = uniform_plans(tables.problem)
    found = front(tables.problem, axis, points, limits=limits, searcher=options.searcher(), given=given)
    return {
        "model": context.prepared.loaded.name,
        "method": options.method,
        "latency_source": options.latency_source,
        "axis": axis,
        "points": [front_point(point, names) for point in found],
        "latency_entries": tables.latency.entries,
        **context.condition(),
    }
