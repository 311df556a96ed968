"""The latency database: what was measured, on which device, with which versions.

One SQLite file. A record is found by what was compiled (`LatencyKey`) and where it ran (`DeviceIdentity.key`); a number
from another device is never an answer. Under one key a measurement and a prediction live side by side, so that a
prediction never hides a measurement; of two of the same kind the newer one stays.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tvm_mpq import scratch
from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, OutputError
from tvm_mpq.schema import LatencyRecord
from tvm_mpq.tuning.database import records as rows
from tvm_mpq.tuning.database.store import SqliteFile, default_path, instant_us

logger = logging.getLogger(__name__)

__all__ = ["LatencyDatabase", "MergeCounts", "Stats", "default_path"]

_SELECT = f"SELECT {', '.join(rows.COLUMNS)} FROM latency"
_IDENTITY = (*rows.KEY_COLUMNS, "device", "provenance")
_REST = [name for name in (*rows.COLUMNS, "at_us") if name not in _IDENTITY]
_REPLACE = (
    f"INSERT INTO latency ({', '.join(rows.COLUMNS)}, at_us) VALUES ({', '.join('?' * (len(rows.COLUMNS) + 1))}) "
    f"ON CONFLICT ({', '.join(_IDENTITY)}) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in _REST)}"
)
_PUT = f"{_REPLACE} WHERE excluded.at_us >= latency.at_us"


@dataclass(frozen=True)
class MergeCounts:
    """What an import or merge did with the records it read."""

    added: int
    replaced: int  # a newer record took the place of an older one
    kept: int  # what was here is as new or newer


@dataclass(frozen=True)
class Stats:
    """What a database holds. Times are ISO 8601, None when it is empty."""

    records: int
    measured: int
    predicted: int
    simulated: int
    failures: int
    devices: dict[str, int]  # device key -> records
    targets: dict[str, int]
    whole_networks: int
    results: int  # ranges, sensitivities and the like
    oldest: str | None
    newest: str | None
    file_bytes: int


class LatencyDatabase:
    """An open latency database; use as a context manager or `close` it.

    Parameters
    ----------
    path : str or Path, optional
        Created when missing; `default_path()` when not given.

    Raises
    ------
    FileFormatError
        The file is not a latency database, or of a newer version.
    OutputError
        It cannot be created or written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.store = SqliteFile(default_path() if path is None else path)

    @property
    def path(self) -> Path:
        return self.store.path

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> LatencyDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(self, record: LatencyRecord, *, replace: bool = False) -> None:
        """Store and commit at once, unless a newer one of the same key, device and provenance is there.

        replace: it was measured just now, whatever the clock said then and says now.

        Raises InvalidValueError for a record that contradicts itself or holds NaN or infinity.
        """
        row = rows.to_row(record)
        with self.store.translated() as connection:
            connection.execute(_REPLACE if replace else _PUT, row)
        key, result = record.key, record.failure or f"{record.median_us:.4g} us"
        logger.debug(
            "%s: %s %s %s %s: %s", record.provenance, key.workload, key.precision, key.family, key.knobs, result
        )

    def put_all(self, records: Iterable[LatencyRecord]) -> MergeCounts:
        """Store all or none, in one transaction, by the rule of `put`; an equally new record is kept."""
        lines = [rows.to_row(record) for record in records]
        added = replaced = kept = 0
        find = f"SELECT at_us FROM latency WHERE {' AND '.join(f'{name} = ?' for name in _IDENTITY)}"
        where = [rows.COLUMNS.index(name) for name in _IDENTITY]
        with self.store.transaction() as connection:
            for line in lines:
                found = connection.execute(find, [line[i] for i in where]).fetchone()
                if found is not None and found[0] >= line[-1]:
                    kept += 1
                    continue
                connection.execute(_PUT, line)
                added, replaced = added + (found is None), replaced + (found is not None)
        return MergeCounts(added, replaced, kept)

    def fastest(self, workload: str, precision: str, out_bits: int, target: str, device: str) -> list[LatencyRecord]:
        """Sound measurements on this very device over all families and knobs, the fastest first."""
        found = self.records(
            workload=workload,
            precision=precision,
            out_bits=out_bits,
            target=target,
            device=device,
            provenance="measured",
            failures=False,
        )
        return sorted(found, key=lambda r: (r.median_us or math.inf, r.key.family, r.key.knobs))

    def records(self, *, failures: bool | None = None, **equal: Any) -> Iterator[LatencyRecord]:
        """Records whose columns equal what is given (None = any), oldest first.

        failures: True = only failures, False = none. Columns: those of LatencyKey, device, provenance, tvm_version,
        kernel_version. Raises InvalidValueError for another column.
        """
        allowed = (*_IDENTITY, "tvm_version", "kernel_version")
        unknown = sorted(set(equal) - set(allowed))
        if unknown:
            raise InvalidValueError(f"records can be filtered by {', '.join(allowed)} (got {', '.join(unknown)})")
        chosen = {name: value for name, value in equal.items() if value is not None}
        terms = [f"{name} = ?" for name in chosen]
        if failures is not None:
            terms.append(f"failure IS {'NOT ' if failures else ''}NULL")
        condition = f" WHERE {' AND '.join(terms)}" if terms else ""
        with self.store.translated() as connection:
            found = connection.execute(f"{_SELECT}{condition} ORDER BY at_us, rowid", list(chosen.values())).fetchall()
        return map(rows.from_row, found)

    def export_jsonl(self, path: str | Path, **filters: Any) -> int:
        """Write one record a line, whole file or nothing; returns how many. Raises OutputError."""
        path = Path(path)
        count = 0
        try:
            with scratch.replacing(path) as stream:
                for record in self.records(**filters):
                    stream.write(rows.to_json(record) + "\n")
                    count += 1
        except OSError as e:
            raise OutputError(f"cannot write records to {str(path)!r}: {e.strerror}") from e
        return count

    def import_jsonl(self, path: str | Path) -> MergeCounts:
        """Read what `export_jsonl` wrote; newer records win. One bad line, and nothing is imported.

        Raises MissingFileError, or FileFormatError with the number of the bad line.
        """
        found = []
        try:
            with Path(path).open(encoding="utf-8") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        try:
                            found.append(rows.from_json(line))
                        except FileFormatError as e:
                            raise FileFormatError(f"{str(path)!r}, line {number}: {e}; nothing was imported") from e
        except FileNotFoundError as e:
            raise MissingFileError(f"no file of records at {str(path)!r}") from e
        except (UnicodeDecodeError, OSError) as e:
            raise FileFormatError(f"{str(path)!r} is not a file of records: {e}") from e
        return self.put_all(found)

    def merge(self, path: str | Path) -> MergeCounts:
        """Take over the latency records of another database file, newer ones winning; that file is only read."""
        if not Path(path).is_file():
            raise MissingFileError(f"no database at {str(path)!r}")
        other = LatencyDatabase.__new__(LatencyDatabase)
        other.store = SqliteFile.snapshot(path)
        with other:
            return self.put_all(other.records())

    def prune(self, *, older_than: datetime | str | None = None, failures: bool = False) -> int:
        """Delete records measured before `older_than` (and whole-network results of then), and failures.

        Returns how many records went. Raises InvalidValueError when neither is asked for.
        """
        if older_than is None and not failures:
            raise InvalidValueError("prune needs a condition: older_than or failures (got none)")
        with self.store.transaction() as connection:
            gone = 0
            if older_than is not None:
                text = older_than if isinstance(older_than, str) else older_than.isoformat()
                before = [instant_us(text)]
                gone += connection.execute("DELETE FROM latency WHERE at_us < ?", before).rowcount
                connection.execute("DELETE FROM whole_network WHERE at_us < ?", before)
            if failures:
                gone += connection.execute("DELETE FROM latency WHERE failure IS NOT NULL").rowcount
        return gone

    def stats(self) -> Stats:
        """Count what is here."""
        with self.store.translated() as connection:

            def one(query: str) -> Any:
                return connection.execute(query).fetchone()[0]

            def counts(column: str) -> dict[str, int]:
                query = f"SELECT {column}, count(*) FROM latency GROUP BY {column} ORDER BY {column}"
                return dict(connection.execute(query).fetchall())

            return Stats(
                records=one("SELECT count(*) FROM latency"),
                measured=one("SELECT count(*) FROM latency WHERE provenance = 'measured' AND failure IS NULL"),
                predicted=one("SELECT count(*) FROM latency WHERE provenance = 'predicted' AND failure IS NULL"),
                simulated=one("SELECT count(*) FROM latency WHERE provenance = 'simulated' AND failure IS NULL"),
                failures=one("SELECT count(*) FROM latency WHERE failure IS NOT NULL"),
                devices=counts("device"),
                targets=counts("target"),
                whole_networks=one("SELECT count(*) FROM whole_network"),
                results=one("SELECT count(*) FROM results"),
                oldest=one("SELECT (SELECT measured_at FROM latency ORDER BY at_us LIMIT 1)"),
                newest=one("SELECT (SELECT measured_at FROM latency ORDER BY at_us DESC LIMIT 1)"),
                file_bytes=one("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"),
            )

    def verify(self) -> list[str]:
        """Problems found, in words: damaged pages, and rows that are not sound records. Empty = sound."""
        with self.store.translated() as connection:
            problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
            found = [] if problems else connection.execute(_SELECT).fetchall()
        for row in found:
            try:
                rows.check(rows.from_row(row))
            except (FileFormatError, InvalidValueError, TypeError) as e:
                problems.append(str(e))
        return problems
