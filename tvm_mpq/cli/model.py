"""Commands that take a model, or a folder built from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvm_mpq.cli.common import (
    answer,
    board_options,
    budget_options,
    data_option,
    input_shape_option,
    json_option,
    method_options,
    model_options,
    precisions_option,
    solver_option,
    with_progress,
    work_options,
)
from tvm_mpq.cli.talk import tell
from tvm_mpq.cli.values import (
    known_precision,
)
from tvm_mpq.errors import InvalidValueError


@click.command()
@model_options
@precisions_option
@work_options
@board_options
@budget_options
@method_options
@data_option("--eval", "eval_data", "Evaluation .npz with labels.")
@click.option(
    "--judge",
    type=click.Choice(["calib", "eval"]),
    default="calib",
    help="Data that decide whether a plan keeps --max-drop; eval: those of --eval, which no longer test the result.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for library, plan and report.")
@click.option("--dry-run", is_flag=True, help="Only say what would be measured, and how long it would take.")
@solver_option
@click.option(
    "--measure-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Share of the unknown latencies to measure; the others are predicted, those of the chosen plan checked.",
)
@click.option(
    "--finetune",
    "finetune_epochs",
    type=click.IntRange(0),
    default=0,
    help="Epochs in which the chosen plan's weights learn from the fp32 network on the calibration data; 0: none.",
)
@json_option
def optimize(
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    latency_ratio: float | None,
    latency_ms: float | None,
    size_mb: float | None,
    max_drop: float | None,
    **fields: Any,
) -> None:
    """Find, build and verify the best mixed-precision library for MODEL."""
    from tvm_mpq.schema import Budget

    budget = Budget(latency_ratio, latency_ms, size_mb, max_drop)
    from tvm_mpq.pipeline import check_output, forecast_network, optimize_network
    from tvm_mpq.report import tables
    from tvm_mpq.report.forecast import show_forecast
    from tvm_mpq.report.progress import OPTIMIZE_PHASES

    if dry_run:
        answer(with_progress(forecast_network, budget=budget, **fields), as_json, show_forecast)
        return
    if out is None:
        raise click.UsageError("Missing option '--out': the folder for library, plan and report.")
    check_output(out)
    result = with_progress(optimize_network, stages=OPTIMIZE_PHASES, budget=budget, **fields)
    report = result.save(out)
    answer(report, as_json, tables.show_optimize)


@click.command()
@model_options
@precisions_option
@json_option
def inspect(as_json: bool, **fields: Any) -> None:
    """Show MODEL's operators, their workloads and candidate precisions."""
    from tvm_mpq.pipeline import inspect_network
    from tvm_mpq.report import tables

    answer(with_progress(inspect_network, **fields), as_json, tables.show_inspect)


def _build(out: Path, as_json: bool, uniform: str | None, keep: str, plan: Path | None, **fields: Any) -> None:
    """Build a plan, or one precision everywhere, into `out`, and print the report."""
    from tvm_mpq.pipeline import build_network, check_output
    from tvm_mpq.report import tables

    check_output(out)
    kept = tuple(word for word in keep.split(",") if word)
    result = with_progress(lambda options: build_network(options, uniform=uniform, keep=kept, plan=plan), **fields)
    answer(result.save(out), as_json, tables.show_build)


@click.command()
@model_options
@work_options
@board_options
@click.option(
    "--uniform",
    callback=known_precision,
    help="One precision for all operators, fp32, fp16, w8a8, w4a8, ...; w8a8 or fp32 where it has no kernel.",
)
@click.option("--keep", default="", help="With --uniform: operators left at w8a8: first,last or names, by commas.")
@click.option("--plan", type=click.Path(path_type=Path), help="A saved plan.json instead of --uniform.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for model.so and plan.json.")
@json_option
def build(**fields: Any) -> None:
    """Build MODEL without searching: one precision everywhere, or a plan made before."""
    _build(**fields)


@click.command()
@model_options
@work_options
@click.option("--uniform", callback=known_precision, help="As of build.")
@click.option("--keep", default="", help="With --uniform: operators left at w8a8: first,last or names, by commas.")
@click.option("--plan", type=click.Path(path_type=Path), help="A built folder or its plan.json instead of --uniform.")
@click.option(
    "--epochs", "finetune_epochs", type=click.IntRange(1), default=30, help="How often the data are gone through."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for model.so, plan.json and codes.")
@json_option
def finetune(**fields: Any) -> None:
    """Let the weights of a plan of MODEL learn from the fp32 network on --data, and build it; needs PyTorch."""
    _build(**fields)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@data_option("--data", "data", "Evaluation .npz, labels optional.", required=True)
@click.option("--reference", type=click.Path(path_type=Path), help="Another built folder to compare outputs with.")
@click.option("--profile", is_flag=True, help="Also the time of each operator, each timed alone.")
@board_options
@json_option
def run(
    folder: Path, data: Path, reference: Path | None, profile: bool, rpc: str | None, key: str | None, as_json: bool
) -> None:
    """Accuracy and latency of a built FOLDER, through plain TVM runtime in a process of its own."""
    from tvm_mpq.pipeline import run_folder
    from tvm_mpq.report import tables

    answer(run_folder(folder, data, reference, rpc=rpc, key=key, profile=profile), as_json, tables.show_run)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@input_shape_option
@data_option("--data", "data", "Calibration .npz; with labels, also top-1.")
@click.option("--engines", default="all", help="By commas: ours-int8, ours-w2a4, ort-int8, openvino-fp32, ...; or all.")
@click.option("--threads", default="1", help="Thread counts, by commas.")
@click.option("--rounds", type=click.IntRange(1), default=15, help="Calm rounds wanted for each ratio.")
@click.option("--db", type=click.Path(path_type=Path), help="Latency database file; default: user's cache.")
@json_option
def bench(
    model: Path,
    input_shapes: dict[str, tuple[int, ...]],
    data: Path | None,
    engines: str,
    threads: str,
    rounds: int,
    db: Path | None,
    as_json: bool,
) -> None:
    """Compare MODEL's speed and outputs with the other engines installed here, in turns."""
    from tvm_mpq.peers.bench import bench_model
    from tvm_mpq.peers.compare import Settings, chosen_engines, default_cache
    from tvm_mpq.report.peers import show_peers

    chosen = chosen_engines(engines)
    counts = threads.split(",")
    if not all(word.isdigit() and int(word) > 0 for word in counts):
        raise InvalidValueError(f"--threads takes whole numbers above 0 by commas (got {threads!r})")
    settings = Settings(default_cache(), chosen, rounds=rounds, db=str(db) if db else None, say=tell)
    report = bench_model(model, settings, [int(word) for word in counts], data=data, input_shapes=input_shapes)
    answer(report, as_json, show_peers)


@click.command()
@model_options
@precisions_option
@work_options
@board_options
@click.option("--trials", type=click.IntRange(1), help="Candidates to measure at most, beside the defaults.")
@click.option("--minutes", type=click.FloatRange(0, 1e6, min_open=True), help="Begin nothing new after this time.")
@click.option("--workers", type=click.IntRange(1), help="Processes that compile kernels; default: one for each core.")
@json_option
def tune(as_json: bool, trials: int | None, minutes: float | None, **fields: Any) -> None:
    """Search faster kernels for MODEL on the device; optimize, search and build then use what was found."""
    from tvm_mpq.pipeline import tune_network
    from tvm_mpq.report import tables

    report = with_progress(lambda options: tune_network(options, trials=trials, minutes=minutes), **fields)
    answer(report, as_json, tables.show_tune)


@click.command()
@model_options
@precisions_option
@work_options
@board_options
@json_option
def sensitivity(as_json: bool, **fields: Any) -> None:
    """Show what each operator of MODEL would lose at each precision, the most sensitive first."""
    from tvm_mpq.pipeline import network_sensitivity
    from tvm_mpq.report import tables

    answer(with_progress(network_sensitivity, **fields), as_json, tables.show_sensitivity)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Show the report of an optimized FOLDER again, and make its page anew."""
    from tvm_mpq.pipeline import reread_report
    from tvm_mpq.report import tables

    answer(reread_report(folder), as_json, tables.show_optimize)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="demo_out", help="Folder for the built library.")
@click.option("--db", type=click.Path(path_type=Path), help="Latency database file; default: user's cache.")
@json_option
def demo(out: Path, db: Path | None, as_json: bool) -> None:
    """Train a small network on real digits, optimize it for this CPU, and compare fp32, 8 bit and mixed."""
    from tvm_mpq.pipeline import check_output, demo_network
    from tvm_mpq.report import tables
    from tvm_mpq.report.progress import OPTIMIZE_PHASES, TRAINING

    check_output(out)
    result = with_progress(demo_network, stages=TRAINING | OPTIMIZE_PHASES, model=None, db=db)
    report = result.save(out)
    answer(report, as_json, tables.show_optimize)
