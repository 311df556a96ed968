"""Anything else kept in the database's file, by kind and key."""

from __future__ import annotations

import sqlite3

import pytest

from tvm_mpq.errors import FileFormatError
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.results import ResultStore
from tvm_mpq.tuning.database.store import MIGRATIONS


def test_values_survive_reopening_and_are_apart(tmp_path):
    with LatencyDatabase(tmp_path / "db") as database:
        ResultStore(database).put("ranges", "k", {"a": [1, 2.5, None]})
        ResultStore(database).put("ranges", "k", {"a": [3]})
        ResultStore(database).put("other", "k", 7)
    with LatencyDatabase(tmp_path / "db") as database:
        assert ResultStore(database).get("ranges", "k") == {"a": [3]}
        assert ResultStore(database).get("other", "k") == 7
        assert ResultStore(database).get("ranges", "none") is None


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_what_json_cannot_hold_is_not_stored(tmp_path, value):
    with LatencyDatabase(tmp_path / "db") as database:
        with pytest.raises(ValueError, match="JSON"):
            ResultStore(database).put("ranges", "k", value)
        assert ResultStore(database).get("ranges", "k") is None


def test_a_damaged_value_is_named(tmp_path):
    with LatencyDatabase(tmp_path / "db") as database:
        ResultStore(database).put("ranges", "k", 1)
        with sqlite3.connect(tmp_path / "db") as raw:
            raw.execute("UPDATE results SET value = '{'")
        with pytest.raises(FileFormatError, match="damaged result"):
            ResultStore(database).get("ranges", "k")


def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path):
    with LatencyDatabase(tmp_path / "db"):
        pass
    with sqlite3.connect(tmp_path / "db") as raw:
        raw.execute("DROP TABLE results")
        raw.execute("ALTER TABLE latency DROP COLUMN failure_kind")
        raw.execute("ALTER TABLE latency DROP COLUMN energy_mj")
        raw.execute("PRAGMA user_version = 1")
    with LatencyDatabase(tmp_path / "db") as database:
        ResultStore(database).put("ranges", "k", 1)
    with sqlite3.connect(tmp_path / "db") as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
