"""Jobs of `tvm-mpq db`: open the latency database, do one thing, answer in JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import cast

from tvm_mpq.errors import InvalidValueError, MissingFileError
from tvm_mpq.report.inventory import DatabaseReport, Identity, Record
from tvm_mpq.schema import DeviceIdentity, LatencyRecord
from tvm_mpq.tuning.database.latencies import LatencyDatabase

MOST_NAMED = 6
"""Records that a message names at most."""


def _existing(path: Path | None) -> LatencyDatabase:
    """A file that the user names must be there; the default one is made when it is not."""
    if path is not None and not path.is_file():
        raise MissingFileError(f"no database at {str(path)!r}")
    return LatencyDatabase(path)


def list_records(path: Path | None, workload: str | None = None) -> DatabaseReport:
    """All records, or those whose workload contains a text; each with the id that `show_record` takes."""
    with _existing(path) as database:
        found = [r for r in database.records() if not workload or workload in r.key.workload]
        return {"database": str(database.path), "records": [_listed(r) for r in found]}


def show_record(path: Path | None, what: str, precision: str | None = None) -> DatabaseReport:
    """One record in full.

    Parameters
    ----------
    what : its id, or text that its workload's key contains.
    precision : as the record has it, such as `w4a8`; None = any.

    Returns
    -------
    dict
        database; record: all fields of `LatencyRecord`, its id, and device_identity (fields of `DeviceIdentity`, None
        where the device's text is no identity).

    Raises
    ------
    InvalidValueError
        If none or several match; the text gives ids to choose from.
    """
    with _existing(path) as database:
        records = {record_id(r): r for r in database.records() if precision in (None, r.key.precision)}
        found = (
            {what: records[what]} if what in records else {i: r for i, r in records.items() if what in r.key.workload}
        )
        if len(found) != 1:
            raise InvalidValueError(_not_one(found, what, precision))
        (record,) = found.values()
        identity = DeviceIdentity.parse(record.device)
        known = None if identity is None else cast(Identity, dataclasses.asdict(identity))
        return {"database": str(database.path), "record": {**_listed(record), "device_identity": known}}


def record_id(record: LatencyRecord) -> str:
    """Ten hexadecimal digits of what no two records of a database share; the same in every database."""
    identity = (*vars(record.key).values(), record.device, record.provenance)
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]


def _listed(record: LatencyRecord) -> Record:
    return cast(Record, {"id": record_id(record), **dataclasses.asdict(record)})


def _not_one(found: dict[str, LatencyRecord], what: str, precision: str | None) -> str:
    wanted = repr(what) + (f" at precision {precision}" if precision else "")
    if not found:
        return f"no record has the id or workload {wanted}; tvm-mpq db list shows what is there"
    names = [f"{name} ({r.key.precision}, {r.key.family})" for name, r in list(found.items())[:MOST_NAMED]]
    more = f" and {len(found) - len(names)} more" if len(found) > len(names) else ""
    return f"{len(found)} records match {wanted}: show one of {', '.join(names)}{more}"


def export_records(path: Path | None, file: Path) -> DatabaseReport:
    """Write all records as JSON lines. Raises OutputError."""
    with _existing(path) as database:
        return {"exported": database.export_jsonl(file), "file": str(file)}


def import_records(path: Path | None, file: Path) -> DatabaseReport:
    """Read JSON lines; newer records win. Raises MissingFileError, FileFormatError."""
    with LatencyDatabase(path) as database:
        return {"imported": dataclasses.asdict(database.import_jsonl(file))}


def merge_records(path: Path | None, file: Path) -> DatabaseReport:
    """Take over another database's records; newer ones win. Raises MissingFileError, FileFormatError."""
    with LatencyDatabase(path) as database:
        return {"merged": dataclasses.asdict(database.merge(file))}


def prune_records(path: Path | None, *, failures: bool, older_than_days: float | None) -> DatabaseReport:
    """Delete failures, or records older than some days, or both. Raises InvalidValueError when neither is asked for."""
    before = None if older_than_days is None else datetime.now(timezone.utc) - timedelta(days=older_than_days)
    with _existing(path) as database:
        return {"pruned": database.prune(older_than=before, failures=failures)}


def verify_records(path: Path | None) -> DatabaseReport:
    """Problems of the file, in words; none when it is sound."""
    with _existing(path) as database:
        return {"database": str(database.path), "problems": database.verify()}
