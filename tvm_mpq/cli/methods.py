"""Commands that choose bits by a search method, without building: one method's plans, or all methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvm_mpq.cli.common import (
    answer,
    board_options,
    data_option,
    effort_options,
    json_option,
    limit_options,
    method_options,
    model_options,
    precisions_option,
    solver_option,
    source_options,
    with_progress,
    work_options,
)
from tvm_mpq.cli.values import (
    known_methods,
    known_shares,
)


@click.command()
@model_options
@precisions_option
@work_options
@board_options
@method_options
@source_options
@limit_options
@click.option("--points", type=click.IntRange(2, 100), default=8, help="Points of the front.")
@click.option("--axis", type=click.Choice(["latency", "size", "energy"]), default="latency", help="Cost against loss.")
@click.option("--plans", type=click.Path(path_type=Path), help="Folder that gets every plan as a JSON file.")
@json_option
def search(
    as_json: bool,
    plans: Path | None,
    points: int,
    axis: str,
    latency_ratio: float | None,
    latency_ms: float | None,
    size_mb: float | None,
    energy_mj: float | None,
    **fields: Any,
) -> None:
    """Show the Pareto front of MODEL: what each budget buys, uniform plans included, dominated ones marked."""
    from tvm_mpq.schema import Budget

    budget = Budget(latency_ratio, latency_ms, size_mb, energy_mj=energy_mj)
    from tvm_mpq.pipeline import search_network
    from tvm_mpq.report import tables

    report = with_progress(
        lambda options: search_network(options, points=points, axis=axis, plans=plans), budget=budget, **fields
    )
    answer(report, as_json, tables.show_search)


@click.command()
@model_options
@precisions_option
@work_options
@board_options
@effort_options
@source_options
@click.option("--methods", default="all", callback=known_methods, help="By commas: ilp, greedy, amed, ...; or all.")
@click.option(
    "--budgets", default="0.9,0.8,0.7,0.6", callback=known_shares, help="Shares of uniform 8 bit's cost, by commas."
)
@click.option("--axis", type=click.Choice(["latency", "energy"]), default="latency", help="What --budgets limit.")
@click.option("--measure", is_flag=True, help="Also build every plan and time it, in turns with the others.")
@data_option("--eval", "eval_data", "Also run every plan on this .npz, which nothing is chosen on.")
@click.option("--page", type=click.Path(path_type=Path), help="HTML file that gets pictures and table.")
@solver_option
@json_option
def compare(
    as_json: bool,
    page: Path | None,
    methods: tuple[str, ...],
    budgets: tuple[float, ...],
    measure: bool,
    axis: str,
    energy_mj: float | None,
    **fields: Any,
) -> None:
    """Show what each search method finds for MODEL within each budget, beside the solver's proven bound."""
    from tvm_mpq.schema import Budget

    budget = Budget(energy_mj=energy_mj)
    from tvm_mpq.pipeline import check_output, compare_methods
    from tvm_mpq.report import tables
    from tvm_mpq.report.comparison import write_comparison

    if page is not None:
        check_output(page.resolve().parent)
    report = with_progress(
        lambda options: compare_methods(options, methods=methods, budgets=budgets, measure=measure, axis=axis),
        budget=budget,
        **fields,
    )
    if page is not None:
        write_comparison(report, page)
    answer(report, as_json, tables.show_compare)
