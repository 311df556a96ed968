"""Commands about the latency database."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvm_mpq.cli.common import Command, answer, json_option
from tvm_mpq.errors import FileFormatError

if TYPE_CHECKING:
    from tvm_mpq.report.inventory import DatabaseReport


@click.group()
def db() -> None:
    """Look into the latency database, share it, clean it."""


def _db_command(command: Callable[..., DatabaseReport]) -> Command:
    @click.option("--db", "path", type=click.Path(path_type=Path), help="Database file; default: user's cache.")
    @json_option
    @functools.wraps(command)
    def wrapped(as_json: bool, **options: Any) -> None:
        from tvm_mpq.report.database import show_db

        report = command(**options)
        answer(report, as_json, show_db)
        if report.get("problems"):
            raise FileFormatError(f"database {report['database']!r} is damaged: see the problems above")

    return wrapped


@db.command("list")
@click.option("--workload", help="Only workloads whose key contains this text.")
@_db_command
def db_list(path: Path | None, workload: str | None) -> DatabaseReport:
    """Show the records."""
    from tvm_mpq.pipeline.database import list_records

    return list_records(path, workload)


@db.command("show")
@click.argument("record")
@click.option("--precision", help="With a workload: of this precision, such as w4a8.")
@_db_command
def db_show(path: Path | None, record: str, precision: str | None) -> DatabaseReport:
    """Show one RECORD in full: its id as `list` prints it, or a text that only its workload's key contains."""
    from tvm_mpq.pipeline.database import show_record

    return show_record(path, record, precision)


@db.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@_db_command
def db_export(path: Path | None, file: Path) -> DatabaseReport:
    """Write all records to FILE as JSON lines."""
    from tvm_mpq.pipeline.database import export_records

    return export_records(path, file)


@db.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_db_command
def db_import(path: Path | None, file: Path) -> DatabaseReport:
    """Read JSON lines from FILE; newer records win."""
    from tvm_mpq.pipeline.database import import_records

    return import_records(path, file)


@db.command("merge")
@click.argument("file", type=click.Path(path_type=Path))
@_db_command
def db_merge(path: Path | None, file: Path) -> DatabaseReport:
    """Take over the records of another database FILE; newer records win."""
    from tvm_mpq.pipeline.database import merge_records

    return merge_records(path, file)


@db.command("prune")
@click.option("--failures", is_flag=True, help="Delete records of failures.")
@click.option("--older-than-days", type=click.FloatRange(0, 36500), help="Delete records older than this.")
@_db_command
def db_prune(path: Path | None, failures: bool, older_than_days: float | None) -> DatabaseReport:
    """Delete records that are no longer wanted."""
    from tvm_mpq.pipeline.database import prune_records

    return prune_records(path, failures=failures, older_than_days=older_than_days)


@db.command("verify")
@_db_command
def db_verify(path: Path | None) -> DatabaseReport:
    """Check the file; list what is wrong with it; exit 1 when something is."""
    from tvm_mpq.pipeline.database import verify_records

    return verify_records(path)
