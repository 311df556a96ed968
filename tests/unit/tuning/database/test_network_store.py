"""Whole-network runs in the latency database's file."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from tvm_mpq.errors import FileFormatError, InvalidValueError
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.network_store import NetworkRun, NetworkStore

RUN = NetworkRun(
    "plan", "dev A", "x86-avx2", "m", "0.27/1", 100.0, 2.0, 9, 30.0, 500.0, 95.0, "2025-01-01T00:00:00+00:00"
)


@pytest.fixture
def db(tmp_path):
    with LatencyDatabase(tmp_path / "db.sqlite") as database:
        yield database


def test_network_runs_are_per_device_and_the_newest_stays(db):
    store = NetworkStore(db)
    store.put(RUN)
    store.put(dataclasses.replace(RUN, median_us=1.0, measured_at="2024-01-01T00:00:00+00:00"))
    store.put(dataclasses.replace(RUN, plan="other", predicted_us=None, measured_at="2026-01-01T00:00:00+00:00"))
    assert store.get("plan", "dev A") == RUN
    assert store.get("plan", "dev B") is None
    assert [r.plan for r in store.all("dev A")] == ["plan", "other"]
    assert db.prune(older_than="2025-06-01T00:00:00+00:00") == 0
    assert [r.plan for r in store.all("dev A")] == ["other"]


@pytest.mark.parametrize("name", ["median_us", "iqr_us", "load_ms", "first_run_us", "predicted_us"])
def test_bad_run_is_refused(db, name):
    store = NetworkStore(db)
    for bad in (float("nan"), float("inf"), -1e-9):
        with pytest.raises(InvalidValueError, match=f"{name} must be finite and 0 or more"):
            store.put(dataclasses.replace(RUN, **{name: bad}))
    assert store.all("dev A") == []
    free = dataclasses.replace(RUN, **{name: 0.0})
    store.put(free)
    assert store.all("dev A") == [free]


def test_of_two_runs_of_one_moment_the_later_stays(db):
    store = NetworkStore(db)
    for model in ("a", "b"):
        store.put(dataclasses.replace(RUN, model=model))
    assert store.get("plan", "dev A").model == "b"


def test_the_newer_run_takes_the_place_of_the_older_in_every_column(db):
    store = NetworkStore(db)
    store.put(dataclasses.replace(RUN, plan="z", measured_at="2020-01-01T00:00:00+00:00"))
    store.put(RUN)
    new = NetworkRun("plan", "dev A", "t", "n", "v", 1.0, 3.0, 4, 5.0, 6.0, 7.0, "2026-01-01T00:00:00+00:00")
    store.put(new)
    assert store.get("plan", "dev A") == new


def test_a_damaged_run_is_named(db):
    NetworkStore(db).put(RUN)
    with sqlite3.connect(db.path) as raw:
        raw.execute("UPDATE whole_network SET median_us = 'fast'")
    with pytest.raises(FileFormatError, match="holds a damaged network run"):
        NetworkStore(db).get("plan", "dev A")


def test_pruning_leaves_what_is_of_that_very_moment(db):
    store = NetworkStore(db)
    store.put(RUN)
    db.prune(older_than=RUN.measured_at)
    assert store.all("dev A") == [RUN]
