"""The command line: text in, text out. Every command parses, calls one pipeline function and prints.

Data go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 one line `error: ...`, 2 usage, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from tvm_mpq.errors import FileFormatError, InvalidValueError, MPQError

Command = Callable[..., None]

OBSERVERS = ("minmax", "mse", "percentile")
"""Named here again, so that a wrong one is found before hours of work; a test compares with `calibrate`."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="tvm-mpq")
def cli() -> None:
    """Mixed-precision networks for TVM: measured on your CPU, chosen by an exact solver, built into one model.so."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line; a traceback is a bug of ours.

    args: what follows the program's name; None = as it was called.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name outside the terminal's encoding is no reason to stop
    try:
        cli(args, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; everything measured so far is kept: run the same command again to go on", err=True)
        sys.exit(130)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except MPQError as e:
        _fail(str(e))
    except ImportError as e:
        if (e.name or "").split(".")[0] not in ("tvm", "tvm_ffi"):
            raise
        _fail(f"TVM cannot be imported ({e}); tvm-mpq doctor says more")
    except OSError as e:
        if e.errno not in _DISK_ERRORS:
            raise
        _fail(f"cannot write {e.filename or 'output'}: {e.strerror}")


def _fail(text: str) -> None:
    click.echo(f"error: {' '.join(text.split())}", err=True)
    sys.exit(1)


def _known_observer(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value not in OBSERVERS:
        raise InvalidValueError(f"observer must be one of {', '.join(OBSERVERS)} (got {value!r})")
    return value


def _known_precision(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from tvm_mpq.schema import Precision

    return None if value is None else str(Precision.parse(value))


def _model_options(command: Command) -> Command:
    for option in (
        click.option("--threads", type=click.IntRange(1), default=1, help="Threads the library will use."),
        click.option("--batch", type=click.IntRange(1), default=1, help="Size given to a dynamic batch axis."),
        click.option("--target", default="local", help="A name from `tvm-mpq targets`, or local."),
        click.argument("model", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def _work_options(command: Command) -> Command:
    for option in (
        click.option("--db", type=click.Path(path_type=Path), help="Latency database file; default: user's cache."),
        click.option(
            "--observer", default="mse", callback=_known_observer, help="Activation ranges: minmax, mse or percentile."
        ),
        click.option("--data", type=click.Path(path_type=Path), help="Calibration .npz, arrays named as the inputs."),
    ):
        command = option(command)
    return command


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")(command)


def _budget_options(command: Command) -> Command:
    for option in (
        click.option("--max-drop", type=float, help="Accuracy points that may be lost; 1 when no budget is given."),
        click.option("--size-mb", type=float, help="Weights, in megabytes of 10^6 bytes."),
        click.option("--latency-ms", type=float, help="Whole-network latency, milliseconds."),
        click.option("--latency", "latency_ratio", type=float, help="Latency as a share of uniform 8 bit, 0 to 1."),
    ):
        command = option(command)
    return command


def _with_progress(body: Callable[..., Any], **fields: Any) -> Any:
    """Call `body(options)` with a progress bar and messages on stderr."""
    from tvm_mpq.pipeline.options import Options
    from tvm_mpq.report.progress import ProgressLine

    with ProgressLine() as line:
        return body(Options(**fields, progress=line.update, say=line.say))


def _out(report: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(_finite(report), indent=1, sort_keys=True, allow_nan=False))
    else:
        show(report)


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cli.command()
@_model_options
@_work_options
@_budget_options
@click.option("--eval", "eval_data", type=click.Path(path_type=Path), help="Evaluation .npz with labels.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for library, plan and report.")
@click.option(
    "--solver-seconds",
    "solver_time_limit_sec",
    type=click.FloatRange(0, 1e6, min_open=True),
    default=60.0,
    help="Solver's time limit for each solve.",
)
@_json_option
def optimize(
    out: Path,
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
    from tvm_mpq.pipeline import check_output, optimize_network
    from tvm_mpq.report import tables

    check_output(out)
    result = _with_progress(optimize_network, budget=budget, **fields)
    report = result.save(out)
    _out(report, as_json, tables.show_optimize)


@cli.command()
@_model_options
@_json_option
def inspect(as_json: bool, **fields: Any) -> None:
    """Show MODEL's operators, their workloads and candidate precisions."""
    from tvm_mpq.pipeline import inspect_network
    from tvm_mpq.report import tables

    _out(_with_progress(inspect_network, **fields), as_json, tables.show_inspect)


@cli.command()
@_model_options
@_work_options
@click.option("--points", type=click.IntRange(2, 100), default=8, help="Points of the front.")
@click.option("--axis", type=click.Choice(["latency", "size"]), default="latency", help="Cost against loss.")
@_json_option
def search(as_json: bool, points: int, axis: str, **fields: Any) -> None:
    """Show the Pareto front of MODEL: what each budget buys, uniform plans included, dominated ones marked."""
    from tvm_mpq.pipeline import search_network
    from tvm_mpq.report import tables

    report = _with_progress(lambda options: search_network(options, points=points, axis=axis), **fields)
    _out(report, as_json, tables.show_search)


@cli.command()
@_model_options
@_work_options
@click.option("--uniform", callback=_known_precision, help="One precision for all operators: fp32, w8a8, w4a8, ...")
@click.option("--keep", default="", help="With --uniform: operators left at w8a8: first,last or names, by commas.")
@click.option("--plan", type=click.Path(path_type=Path), help="A saved plan.json instead of --uniform.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for model.so and plan.json.")
@_json_option
def build(out: Path, as_json: bool, uniform: str | None, keep: str, plan: Path | None, **fields: Any) -> None:
    """Build MODEL without searching: one precision everywhere, or a plan made before."""
    from tvm_mpq.pipeline import build_network, check_output
    from tvm_mpq.report import tables

    check_output(out)
    kept = tuple(word for word in keep.split(",") if word)
    result = _with_progress(lambda options: build_network(options, uniform=uniform, keep=kept, plan=plan), **fields)
    report = result.save(out)
    _out(report, as_json, tables.show_build)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Evaluation .npz, labels optional.")
@click.option("--reference", type=click.Path(path_type=Path), help="Another built folder to compare outputs with.")
@_json_option
def run(folder: Path, data: Path, reference: Path | None, as_json: bool) -> None:
    """Accuracy and latency of a built FOLDER, through plain TVM runtime in a process of its own."""
    from tvm_mpq.pipeline import run_folder
    from tvm_mpq.report import tables

    _out(run_folder(folder, data, reference), as_json, tables.show_run)


@cli.command()
@_json_option
def targets(as_json: bool) -> None:
    """List the targets and where their facts come from."""
    from tvm_mpq.report import tables
    from tvm_mpq.targets import describe_rows

    _out({"targets": describe_rows()}, as_json, tables.show_targets)


@cli.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Say what is missing on this machine and how to mend it; exit 1 when something needed is."""
    from tvm_mpq.pipeline import diagnose
    from tvm_mpq.report import tables

    report = diagnose()
    _out(report, as_json, tables.show_doctor)
    if not report["ok"]:
        raise InvalidValueError("this machine lacks what the lines above marked `missing` name")


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default="demo_out", help="Folder for the built library.")
@click.option("--db", type=click.Path(path_type=Path), help="Latency database file; default: user's cache.")
@_json_option
def demo(out: Path, db: Path | None, as_json: bool) -> None:
    """Train a small network on real digits, optimize it for this CPU, and compare fp32, 8 bit and mixed."""
    from tvm_mpq.pipeline import check_output, demo_network
    from tvm_mpq.report import tables

    check_output(out)
    result = _with_progress(demo_network, model=None, db=db)
    report = result.save(out)
    _out(report, as_json, tables.show_optimize)


@cli.group()
def db() -> None:
    """Look into the latency database, share it, clean it."""


def _db_command(command: Callable[..., dict[str, Any]]) -> Command:
    @click.option("--db", "path", type=click.Path(path_type=Path), help="Database file; default: user's cache.")
    @_json_option
    @functools.wraps(command)
    def wrapped(as_json: bool, **options: Any) -> None:
        from tvm_mpq.report import tables

        report = command(**options)
        _out(report, as_json, tables.show_db)
        if report.get("problems"):
            raise FileFormatError(f"database {report['database']!r} is damaged: see the problems above")

    return wrapped


@db.command("list")
@click.option("--workload", help="Only workloads whose key contains this text.")
@_db_command
def db_list(path: Path | None, workload: str | None) -> dict[str, Any]:
    """Show the records."""
    from tvm_mpq.pipeline.database import list_records

    return list_records(path, workload)


@db.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@_db_command
def db_export(path: Path | None, file: Path) -> dict[str, Any]:
    """Write all records to FILE as JSON lines."""
    from tvm_mpq.pipeline.database import export_records

    return export_records(path, file)


@db.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_db_command
def db_import(path: Path | None, file: Path) -> dict[str, Any]:
    """Read JSON lines from FILE; newer records win."""
    from tvm_mpq.pipeline.database import import_records

    return import_records(path, file)


@db.command("merge")
@click.argument("file", type=click.Path(path_type=Path))
@_db_command
def db_merge(path: Path | None, file: Path) -> dict[str, Any]:
    """Take over the records of another database FILE; newer records win."""
    from tvm_mpq.pipeline.database import merge_records

    return merge_records(path, file)


@db.command("prune")
@click.option("--failures", is_flag=True, help="Delete records of failures.")
@click.option("--older-than-days", type=click.FloatRange(0, 36500), help="Delete records older than this.")
@_db_command
def db_prune(path: Path | None, failures: bool, older_than_days: float | None) -> dict[str, Any]:
    """Delete records that are no longer wanted."""
    from tvm_mpq.pipeline.database import prune_records

    return prune_records(path, failures=failures, older_than_days=older_than_days)


@db.command("verify")
@_db_command
def db_verify(path: Path | None) -> dict[str, Any]:
    """Check the file; list what is wrong with it; exit 1 when something is."""
    from tvm_mpq.pipeline.database import verify_records

    return verify_records(path)


if __name__ == "__main__":
    main()
