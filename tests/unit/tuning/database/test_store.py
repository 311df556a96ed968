"""The SQLite file itself: whose it is, its schema, times, locks and transactions."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tvm_mpq.errors import FileFormatError, InvalidValueError, OutputError
from tvm_mpq.tuning.database import store
from tvm_mpq.tuning.database.store import APPLICATION_ID, MIGRATIONS, SqliteFile, instant_us, now_text


def pragma(path: Path, name: str) -> object:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return raw.execute(f"PRAGMA {name}").fetchone()[0]


def changed(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(statement)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00+00:00", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:01", 10**6),  # without a zone it is UTC
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59Z", -(10**6)),
        ("2025-01-31T12:00:00.123457+00:00", 1738324800123457),
    ],
)
def test_instants(text: str, microseconds: int) -> None:
    assert instant_us(text) == microseconds


@pytest.mark.parametrize("text", ["yesterday", "", "Z", None, 5, "2025-13-01"])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(InvalidValueError, match="a time is ISO 8601 text"):
        instant_us(text)  # type: ignore[arg-type]


def test_now_is_in_utc_to_the_microsecond() -> None:
    before = datetime.now(timezone.utc)
    text = now_text()
    moment = datetime.fromisoformat(text)
    assert before <= moment <= datetime.now(timezone.utc) and moment.utcoffset() == timedelta(0)
    assert len(text) == len("2025-01-31T12:00:00.123457+00:00")


def test_the_mark_is_of_the_format_and_stays() -> None:
    assert APPLICATION_ID.to_bytes(4, "big") == b"mpq1"


def test_a_new_file_is_marked_and_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "db"
    for _ in range(2):
        SqliteFile(path).close()
        assert pragma(path, "application_id") == APPLICATION_ID
        assert pragma(path, "user_version") == len(MIGRATIONS)
        assert pragma(path, "journal_mode") == "wal"
    before = pragma(path, "schema_version")
    SqliteFile(path).close()
    assert pragma(path, "schema_version") == before


def test_a_power_cut_may_not_damage_the_file(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "db")
    with file.translated() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
        assert not connection.in_transaction
    file.close()
    file.close()  # harmless


@pytest.mark.parametrize("mark", ["PRAGMA application_id = 7", "PRAGMA user_version = 1", "CREATE TABLE t (x)"])
def test_any_sign_of_another_program_is_enough(tmp_path: Path, mark: str) -> None:
    changed(tmp_path / "db", mark)
    before = (tmp_path / "db").read_bytes()
    make: Callable[[Path], SqliteFile]
    for make in (SqliteFile, SqliteFile.snapshot):
        with pytest.raises(FileFormatError, match="another program"):
            make(tmp_path / "db")
    assert (tmp_path / "db").read_bytes() == before


def test_the_next_version_is_refused_and_ours_is_not(tmp_path: Path) -> None:
    SqliteFile(tmp_path / "db").close()
    SqliteFile(tmp_path / "db").close()
    changed(tmp_path / "db", f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(FileFormatError, match=f"version {len(MIGRATIONS) + 1}, this tvm-mpq reads up to"):
        SqliteFile(tmp_path / "db")


def old_file(path: Path) -> None:
    """Of version 2, without results' later columns, holding one failure."""
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        for statement in (text for statements in MIGRATIONS[:2] for text in statements):
            raw.execute(statement)
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute("PRAGMA user_version = 2")


def test_a_snapshot_is_brought_up_to_date_and_its_file_is_not(tmp_path: Path) -> None:
    old_file(tmp_path / "db")
    before = (tmp_path / "db").read_bytes()
    with SqliteFile.snapshot(tmp_path / "db").translated() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        connection.execute("SELECT energy_mj, failure_kind FROM latency").fetchall()
    assert (tmp_path / "db").read_bytes() == before


@pytest.fixture
def file(tmp_path: Path) -> SqliteFile:
    made = SqliteFile(tmp_path / "db")
    with made.translated() as connection:
        connection.execute("CREATE TABLE t (x)")
    return made


def rows(file: SqliteFile) -> list[int]:
    with contextlib.closing(sqlite3.connect(file.path)) as other:
        return [x for (x,) in other.execute("SELECT x FROM t ORDER BY x")]


def ended_by(error: BaseException, connection: sqlite3.Connection, statement: str) -> None:
    connection.execute(statement)
    raise error


def test_a_transaction_is_all_or_nothing(file: SqliteFile) -> None:
    with file.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        assert rows(file) == []
    assert rows(file) == [1]
    for failure in (ValueError, KeyboardInterrupt):
        with pytest.raises(failure), file.transaction() as connection:
            ended_by(failure(), connection, "INSERT INTO t VALUES (2)")
        assert rows(file) == [1]
    with file.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (3)")
    assert rows(file) == [1, 3]


def test_what_ended_the_transaction_itself_is_told(file: SqliteFile) -> None:
    """Nothing is left to be rolled back, which must not hide why."""
    with pytest.raises(ValueError, match="the reason"), file.transaction() as connection:
        ended_by(ValueError("the reason"), connection, "ROLLBACK")


def test_threads_may_share_a_file(file: SqliteFile) -> None:
    def write(first: int) -> None:
        for i in range(first, first + 25):
            with file.transaction() as connection:
                connection.execute("INSERT INTO t VALUES (?)", (i,))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 25, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(file) == list(range(75))


def test_one_thread_may_ask_for_the_file_twice(file: SqliteFile) -> None:
    with file.translated(), file.translated() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_file_that_is_up_to_date_is_opened_while_another_writes(
    file: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT_SEC", 0.05)
    with file.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        second = SqliteFile(file.path)
        assert rows(second) == []
        second.close()


def test_a_lock_that_stays_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT_SEC", 0.05)
    file = SqliteFile(tmp_path / "db")
    with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutputError, match=r"locked by another process for 0\.05 s"), file.transaction():
            pass


@pytest.fixture
def blocked(tmp_path: Path) -> Iterator[tuple[SqliteFile, sqlite3.Connection]]:
    """A file that is being created, and the connection that keeps it from being so."""
    with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        made = SqliteFile.__new__(SqliteFile)
        made._connection = SqliteFile._connect(str(tmp_path / "db"))
        made._connection.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN EXCLUSIVE")
        yield made, other
        made._connection.close()


def test_creating_waits_for_another_that_writes(
    blocked: tuple[SqliteFile, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switching to write-ahead logging is refused at once while another holds the file: tried until it is free."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            blocked[1].execute("COMMIT")

    monkeypatch.setattr(store.time, "sleep", sleep)
    blocked[0]._write_ahead()
    assert len(waits) == 2 and all(0 < wait < 1 for wait in waits)
    assert blocked[0]._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_creating_does_not_wait_for_ever(
    blocked: tuple[SqliteFile, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on with every wait; the statement is tried until its time is over, and not after."""
    clock = [100.0]

    def sleep(seconds: float) -> None:
        assert clock[0] <= 100.0 + store.BUSY_TIMEOUT_SEC
        clock[0] += 7.0

    monkeypatch.setattr(store.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(store.time, "sleep", sleep)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        blocked[0]._write_ahead()
    assert clock[0] > 100.0 + store.BUSY_TIMEOUT_SEC - 7.0
