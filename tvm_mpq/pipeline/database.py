"""Jobs of `tvm-mpq db`: open the latency database, do one thing, answer in JSON."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tvm_mpq.errors import MissingFileError
from tvm_mpq.tuning.database import LatencyDatabase


def _existing(path: Path | None) -> LatencyDatabase:
    """A file that the user names must be there; the default one is made when it is not."""
    if path is not None and not path.is_file():
        raise MissingFileError(f"no database at {str(path)!r}")
    return LatencyDatabase(path)


def list_records(path: Path | None, workload: str | None = None) -> dict[str, Any]:
    """All records, or those whose workload contains a text."""
    with _existing(path) as database:
        found = [dataclasses.asdict(r) for r in database.records() if not workload or workload in r.key.workload]
        return {"database": str(database.path), "records": found}


def export_records(path: Path | None, file: Path) -> dict[str, Any]:
    """Write all records as JSON lines. Raises OutputError."""
    with _existing(path) as database:
        return {"exported": database.export_jsonl(file), "file": str(file)}


def import_records(path: Path | None, file: Path) -> dict[str, Any]:
    """Read JSON lines; newer records win. Raises MissingFileError, FileFormatError."""
    with LatencyDatabase(path) as database:
        return {"imported": dataclasses.asdict(database.import_jsonl(file))}


def merge_records(path: Path | None, file: Path) -> dict[str, Any]:
    """Take over another database's records; newer ones win. Raises MissingFileError, FileFormatError."""
    with LatencyDatabase(path) as database:
        return {"merged": dataclasses.asdict(database.merge(file))}


def prune_records(path: Path | None, *, failures: bool, older_than_days: float | None) -> dict[str, Any]:
    """Delete failures, or records older than some days, or both. Raises InvalidValueError when neither is asked for."""
    before = None if older_than_days is None else datetime.now(timezone.utc) - timedelta(days=older_than_days)
    with _existing(path) as database:
        return {"pruned": database.prune(older_than=before, failures=failures)}


def verify_records(path: Path | None) -> dict[str, Any]:
    """Problems of the file, in words; none when it is sound."""
    with _existing(path) as database:
        return {"database": str(database.path), "problems": database.verify()}
