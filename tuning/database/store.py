"""The SQLite file under the latency database: opening, schema versions, errors in plain words.

Write-ahead logging and one statement per record keep every committed row through kill -9 and let several processes
write at once. `PRAGMA user_version` counts the migrations a file has seen; `application_id` marks it as ours.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from tvm_mpq.errors import FileFormatError, InvalidValueError, OutputError

APPLICATION_ID = 0x6D707131
"""Marks a SQLite file as a latency database ("mpq1")."""

BUSY_TIMEOUT_SEC = 30.0

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Times are kept twice: the text as it was given, and microseconds since 1970 to compare by.
        """CREATE TABLE latency (
            workload TEXT NOT NULL, precision TEXT NOT NULL, out_bits INTEGER NOT NULL, family TEXT NOT NULL,
            knobs TEXT NOT NULL, target TEXT NOT NULL, device TEXT NOT NULL, provenance TEXT NOT NULL,
            tvm_version TEXT NOT NULL, kernel_version TEXT NOT NULL, median_us REAL, iqr_us REAL,
            repeats INTEGER NOT NULL, measured_at TEXT NOT NULL, at_us INTEGER NOT NULL, stated_error REAL,
            failure TEXT,
            PRIMARY KEY (workload, precision, out_bits, family, knobs, target, device, provenance)
        )""",
        "CREATE INDEX latency_device ON latency (device)",
        """CREATE TABLE whole_network (
            plan TEXT NOT NULL, device TEXT NOT NULL, target TEXT NOT NULL, model TEXT NOT NULL, versions TEXT NOT NULL,
            median_us REAL NOT NULL, iqr_us REAL NOT NULL, repeats INTEGER NOT NULL, load_ms REAL NOT NULL,
            first_run_us REAL NOT NULL, predicted_us REAL, measured_at TEXT NOT NULL, at_us INTEGER NOT NULL,
            PRIMARY KEY (plan, device)
        )""",
    ),
    (
        """CREATE TABLE results (
            kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, stored_at TEXT NOT NULL,
            PRIMARY KEY (kind, key)
        )""",
    ),
    ("ALTER TABLE latency ADD COLUMN failure_kind TEXT",),
    ("ALTER TABLE latency ADD COLUMN energy_mj REAL",),
)
"""Statements that lead from one schema version to the next; version = how many entries a file has seen."""


def default_path() -> Path:
    """The database used when the user names none: under `XDG_CACHE_HOME`, else `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path there is to be ignored.
    base = Path(cache) if cache and os.path.isabs(cache) else Path.home() / ".cache"
    return base / "tvm-mpq" / "latency.sqlite"


class SqliteFile:
    """One open database file. Threads of this process may share it; a forked process must open its own.

    Parameters
    ----------
    path : Path
        Created, with its folders, when missing.

    Raises
    ------
    FileFormatError
        The file is not a latency database, or of a newer version.
    OutputError
        It cannot be created or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"cannot create folder {str(self.path.parent)!r} for the database: {e.strerror}") from e
        self._lock = threading.RLock()
        with _plain_errors(self.path):
            self._connection = self._connect(str(self.path))
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def snapshot(cls, path: str | Path) -> SqliteFile:
        """A copy in memory, brought to the present schema; the file itself is only read."""
        self = cls.__new__(cls)
        self.path = Path(path)
        self._lock = threading.RLock()
        self._connection = self._connect(":memory:")
        with _plain_errors(self.path):
            with contextlib.closing(sqlite3.connect(self.path.resolve().as_uri() + "?mode=ro", uri=True)) as source:
                source.backup(self._connection)
            self._prepare()
        return self

    @staticmethod
    def _connect(name: str) -> sqlite3.Connection:
        # Autocommit: a put is on its way to the disk when it returns, and transactions are opened on purpose.
        return sqlite3.connect(name, timeout=BUSY_TIMEOUT_SEC, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        """Check that the file is ours, and bring its schema to the present version."""
        version = self._version()
        if version < len(MIGRATIONS):
            self._write_ahead()
            with self.transaction():
                for statements in MIGRATIONS[self._version() :]:  # asked again: another process may have been faster
                    for statement in statements:
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        # A kill -9 loses nothing at NORMAL; a power cut may lose the last records but never the file.
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _version(self) -> int:
        """Schema version, after checking whose file it is."""
        inside = self._connection.in_transaction
        if not inside:
            self._connection.execute("BEGIN")  # one moment for all three, lest another process create the file between
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if not inside:
            self._connection.execute("COMMIT")
        if application != APPLICATION_ID and (application or version or tables):
            raise FileFormatError(f"{str(self.path)!r} is a SQLite file of another program, not a latency database")
        if version > len(MIGRATIONS):
            raise FileFormatError(
                f"{str(self.path)!r} has schema version {version}, this tvm-mpq reads up to {len(MIGRATIONS)}; "
                "install a newer tvm-mpq or choose another file with --db"
            )
        return int(version)

    def _write_ahead(self) -> None:
        """Switch to write-ahead logging; the busy timeout does not cover this one statement."""
        end = time.monotonic() + BUSY_TIMEOUT_SEC
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as e:
                if "locked" not in str(e) or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    @contextlib.contextmanager
    def translated(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time, and turn SQLite's errors into ours."""
        with self._lock, _plain_errors(self.path):
            yield self._connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the body or nothing, with the write lock held from the start."""
        with self.translated() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        """Harmless when closed."""
        with self._lock:
            self._connection.close()


@contextlib.contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    name = repr(str(path))
    try:
        yield
    except sqlite3.ProgrammingError as e:
        raise InvalidValueError(f"database {name} is closed") from e
    except sqlite3.OperationalError as e:
        if "locked" in str(e):
            raise OutputError(f"database {name} was locked by another process for {BUSY_TIMEOUT_SEC:g} s") from e
        raise OutputError(f"cannot open or write database {name}: {e}") from e
    except (sqlite3.DatabaseError, UnicodeDecodeError) as e:  # the latter where a damaged schema is no text
        raise FileFormatError(f"{name} is not a latency database, or is damaged: {e}") from e


def now_text() -> str:
    """This moment, ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def instant_us(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 text; without a zone it is UTC. Raises InvalidValueError."""
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z") + ("+00:00" if text.endswith("Z") else ""))
    except (ValueError, AttributeError) as e:
        raise InvalidValueError(f"a time is ISO 8601 text such as 2025-01-31T12:00:00+00:00 (got {text!r})") from e
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1e6)
