"""Whole-network runs in the latency database's file."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_mpq.errors import InvalidValueError
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


def test_bad_run_is_refused(db):
    with pytest.raises(InvalidValueError, match="median_us must be finite"):
        NetworkStore(db).put(dataclasses.replace(RUN, median_us=float("nan")))
