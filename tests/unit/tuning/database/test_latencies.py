"""The latency database: nothing lost, nothing foreign returned, nothing half imported.

In one file: every promise of the database is tried on the same few rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, OutputError
from tvm_mpq.schema import FailureKind, LatencyKey, LatencyRecord
from tvm_mpq.tuning.database.latencies import LatencyDatabase, MergeCounts, default_path
from tvm_mpq.tuning.database.network_store import NetworkRun, NetworkStore
from tvm_mpq.tuning.database.records import from_json, to_json
from tvm_mpq.tuning.database.results import ResultStore
from tvm_mpq.tuning.database.store import APPLICATION_ID, MIGRATIONS

KEY = LatencyKey("add(shape=1x8x8x16,activation=none)", "-", 8, "fam__isa", '{"tile":4}', "x86-avx2")
RECORD = LatencyRecord(KEY, "dev A", "0.27", "1", 12.5, 0.5, 7, "2025-01-01T00:00:00+00:00", "measured")


def record(**changes) -> LatencyRecord:
    key = {k: changes.pop(k) for k in list(changes) if k in vars(KEY)}
    return dataclasses.replace(RECORD, key=dataclasses.replace(KEY, **key), **changes)


@pytest.fixture
def db(tmp_path):
    with LatencyDatabase(tmp_path / "a" / "db.sqlite") as database:
        yield database


def stored(db, device="dev A", **versions):
    """The one record of KEY, None where there is none."""
    found = list(db.records(**vars(KEY), device=device, **versions))
    assert len(found) < 2
    return found[0] if found else None


def test_put_is_there_after_reopening(db):
    db.put(RECORD)
    with LatencyDatabase(db.path) as other:
        assert stored(other) == RECORD
        assert list(other.records()) == [RECORD]


def test_other_device_is_never_returned(db):
    db.put(RECORD)
    assert stored(db, "dev B") is None
    assert db.fastest(KEY.workload, "-", 8, "x86-avx2", "dev B") == []


def test_versions_are_passed_over_when_asked(db):
    db.put(RECORD)
    assert stored(db, kernel_version="2") is None
    assert stored(db, kernel_version="1", tvm_version="0.27") == RECORD
    assert stored(db, tvm_version="0.28") is None


def test_newest_wins_in_any_order_and_any_zone(db):
    new = record(median_us=1.0, measured_at="2025-01-01T02:00:00Z")
    zoned = record(median_us=2.0, measured_at="2025-01-01T02:30:00+01:00")  # 01:30 UTC, later as text
    for r in (RECORD, new, zoned, RECORD):
        db.put(r)
    assert stored(db) == new


def test_of_one_moment_the_later_put_stays_and_an_import_does_not(db):
    other = record(median_us=3.0)
    db.put(RECORD)
    db.put(other)
    assert stored(db) == other
    for late in (RECORD, record(measured_at="2024-01-01T00:00:00Z")):
        assert db.put_all([late]) == MergeCounts(added=0, replaced=0, kept=1)
    assert stored(db) == other


def test_what_was_measured_just_now_replaces_whatever_the_clock_says(db):
    db.put(record(measured_at="2030-01-01T00:00:00+00:00"))
    db.put(RECORD, replace=True)
    assert stored(db) == RECORD
    db.put(record(median_us=1.0, measured_at="2024-01-01T00:00:00+00:00"))
    assert stored(db) == RECORD


def test_all_or_none_are_stored(db):
    with pytest.raises(InvalidValueError, match="median_us must be finite"):
        db.put_all([RECORD, record(knobs="k", median_us=float("nan"))])
    assert list(db.records()) == []


def test_records_come_oldest_first_and_equally_fast_ones_by_name(db):
    late, early = record(knobs="a", measured_at="2025-03-01T00:00:00Z"), record(knobs="b", family="a__isa")
    same = [record(knobs=name, measured_at="2025-02-01T00:00:00Z") for name in "zy"]
    for r in (late, *same, early):
        db.put(r)
    assert list(db.records()) == [early, *same, late]
    assert db.fastest(KEY.workload, "-", 8, "x86-avx2", "dev A") == [early, late, same[1], same[0]]


def test_prediction_never_hides_a_measurement(db):
    late = record(provenance="predicted", stated_error=0.2, median_us=1.0, measured_at="2026-01-01T00:00:00+00:00")
    db.put(late)
    assert stored(db) == late
    db.put(RECORD)
    assert db.fastest(KEY.workload, "-", 8, "x86-avx2", "dev A") == [RECORD]


def test_sound_measurements_come_fastest_first(db):
    fast = record(family="other", knobs="{}", median_us=3.0)
    for r in (
        RECORD,
        fast,
        record(knobs='{"tile":8}', median_us=None, iqr_us=None, failure="crashed"),
        record(knobs="x", median_us=1.0, provenance="predicted", stated_error=0.1),
        record(out_bits=32, median_us=1.0),
        record(precision="w4a8", median_us=1.0),
        record(target="other", median_us=1.0),
    ):
        db.put(r)
    assert db.fastest(KEY.workload, "-", 8, "x86-avx2", "dev A") == [fast, RECORD]


def test_filters(db):
    bad = record(knobs="k", median_us=None, iqr_us=None, failure="noisy")
    db.put(RECORD)
    db.put(bad)
    assert list(db.records(failures=True)) == [bad]
    assert list(db.records(failures=False, device="dev A")) == [RECORD]
    assert list(db.records(family="none")) == []
    with pytest.raises(InvalidValueError, match=r"can be filtered by workload.*got colour"):
        db.records(colour="red")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"median_us": float("nan")}, "median_us must be finite"),
        ({"iqr_us": float("inf")}, "iqr_us must be finite"),
        ({"median_us": -1.0}, "median_us must be finite and 0 or more"),
        ({"median_us": None}, "either median_us or a failure"),
        ({"failure": "x"}, "either median_us or a failure"),
        ({"failure_kind": FailureKind.CRASH}, "needs its failure in words"),
        ({"provenance": "guessed"}, "one of measured, predicted, simulated"),
        ({"provenance": "predicted"}, "stated_error"),
        ({"measured_at": "yesterday"}, "ISO 8601"),
    ],
)
def test_contradictory_record_is_refused(db, changes, text):
    with pytest.raises(InvalidValueError, match=text):
        db.put(record(**changes))
    assert db.stats().records == 0


times = st.one_of(st.none(), st.floats(0, 1e9))
names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


@settings(max_examples=50)
@given(names, names, st.floats(0, 1e9), times, st.integers(0, 10**6))
def test_json_round_trip(workload, device, median, iqr, repeats):
    r = record(workload=workload, device=device, median_us=median, iqr_us=iqr, repeats=repeats)
    line = to_json(r)
    assert "\n" not in line
    assert from_json(line) == r


def test_export_then_import(db, tmp_path):
    db.put(RECORD)
    db.put(record(device="dev B", median_us=5.0))
    assert db.export_jsonl(tmp_path / "out.jsonl") == 2
    with LatencyDatabase(tmp_path / "two.sqlite") as two:
        two.put(record(median_us=99.0, measured_at="2024-01-01T00:00:00+00:00"))
        assert two.import_jsonl(tmp_path / "out.jsonl") == MergeCounts(added=1, replaced=1, kept=0)
        assert two.import_jsonl(tmp_path / "out.jsonl") == MergeCounts(added=0, replaced=0, kept=2)
        assert set(two.records()) == set(db.records())
    with pytest.raises(OutputError):
        db.export_jsonl(tmp_path / "no" / "such" / "folder")


@pytest.mark.parametrize(
    "bad",
    ["{", "[]", "{}", to_json(RECORD).replace("12.5", "NaN"), to_json(RECORD).replace("12.5", '"a"'), "\udcff"],
)
def test_bad_line_is_named_and_nothing_is_imported(db, tmp_path, bad):
    file = tmp_path / "in.jsonl"
    file.write_bytes(f"{to_json(RECORD)}\n\n{bad}\n".encode(errors="surrogateescape"))
    with pytest.raises(FileFormatError, match=r"line 3|not a file of records") as caught:
        db.import_jsonl(file)
    assert "\n" not in str(caught.value)
    assert db.stats().records == 0
    with pytest.raises(MissingFileError):
        db.import_jsonl(tmp_path / "nothing")


def test_merge_reads_the_other_file_only(db, tmp_path):
    with LatencyDatabase(tmp_path / "two.sqlite") as two:
        two.put(record(median_us=2.0, measured_at="2025-06-01T00:00:00+00:00"))
        two.put(record(device="dev B"))
    before = (tmp_path / "two.sqlite").read_bytes()
    db.put(RECORD)
    assert db.merge(tmp_path / "two.sqlite") == MergeCounts(added=1, replaced=1, kept=0)
    assert stored(db).median_us == 2.0
    assert (tmp_path / "two.sqlite").read_bytes() == before
    with pytest.raises(MissingFileError):
        db.merge(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    (tmp_path / "text").write_text("not a database, long enough to be looked at " * 30)
    with pytest.raises(FileFormatError):
        db.merge(tmp_path / "text")


def test_prune(db):
    db.put(RECORD)
    db.put(record(device="dev B", measured_at="2025-03-01T00:00:00+00:00"))
    db.put(record(knobs="k", median_us=None, iqr_us=None, failure="x", measured_at="2025-03-01T00:00:00+00:00"))
    with pytest.raises(InvalidValueError, match="needs a condition"):
        db.prune()
    assert db.prune(failures=True) == 1
    assert db.prune(older_than="2025-02-01T00:00:00+00:00") == 1
    assert [r.device for r in db.records()] == ["dev B"]


def test_prune_by_both_conditions_and_by_a_moment(db):
    moment = datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))  # that of RECORD
    failed = {"median_us": None, "iqr_us": None, "failure": "x"}
    for name, changes in {"a": {}, "b": {"measured_at": "2024-12-31T23:59:59.999999Z"}, "c": failed}.items():
        db.put(record(knobs=name, **changes))
    assert db.prune(older_than=moment) == 1, "the one of a microsecond before"
    assert [r.key.knobs for r in db.records()] == ["a", "c"]
    assert db.prune(older_than="2025-01-01T00:00:00.000001Z", failures=True) == 2
    assert list(db.records()) == []
    db.put(RECORD)
    assert db.prune(failures=True) == 0


def test_stats_count_each_kind(db):
    kinds = {"measured": 1, "predicted": 2, "simulated": 3}
    for kind, count in kinds.items():
        for i in range(count):
            db.put(record(provenance=kind, stated_error=0.1, knobs=str(i), target=f"t{count}"))
            db.put(record(provenance=kind, knobs=f"f{i}", median_us=None, iqr_us=None, failure="x", target="failed"))
    NetworkStore(db).put(NetworkRun("plan", "d", "t", "m", "v", 1.0, 0.0, 1, 1.0, 1.0, None, RECORD.measured_at))
    ResultStore(db).put("kind", "a", 1)
    ResultStore(db).put("kind", "b", 1)
    found = db.stats()
    assert {kind: getattr(found, kind) for kind in kinds} == kinds
    assert (found.records, found.failures, found.whole_networks, found.results) == (12, 6, 1, 2)
    assert found.targets == {"failed": 6, "t1": 1, "t2": 2, "t3": 3}
    with sqlite3.connect(db.path) as raw:
        pages = [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")]
    assert found.file_bytes == pages[0] * pages[1]


def test_rows_of_no_record_are_all_named(db):
    for name in ("a", "b", "c", "d"):
        db.put(record(knobs=name))
    with sqlite3.connect(db.path) as raw:
        raw.execute("UPDATE latency SET repeats = 'many' WHERE knobs = 'a'")
        raw.execute("UPDATE latency SET median_us = -1 WHERE knobs = 'c'")
        raw.execute("UPDATE latency SET measured_at = 'long ago' WHERE knobs = 'd'")
    texts = ["repeats is 'many'", "median_us must be finite", "a time is ISO 8601 text"]
    found = db.verify()
    assert len(found) == 3 and all(any(text in line for line in found) for text in texts)


def test_stats_and_verify(db):
    assert (db.stats().records, db.stats().oldest) == (0, None)
    db.put(RECORD)
    db.put(record(device="dev B", median_us=None, iqr_us=None, failure="x", measured_at="2025-03-01T00:00:00+00:00"))
    found = db.stats()
    assert (found.records, found.measured, found.failures, found.predicted) == (2, 1, 1, 0)
    assert found.devices == {"dev A": 1, "dev B": 1}
    assert (found.oldest, found.newest) == (RECORD.measured_at, "2025-03-01T00:00:00+00:00")
    assert found.file_bytes > 0
    assert db.verify() == []
    with sqlite3.connect(db.path) as raw:
        raw.execute("UPDATE latency SET provenance = 'guessed' WHERE device = 'dev A'")
    assert len(db.verify()) == 1


def test_foreign_files_are_refused(tmp_path):
    text = tmp_path / "text"
    text.write_text("hello " * 1000)
    with pytest.raises(FileFormatError, match="not a latency database"):
        LatencyDatabase(text)
    assert text.read_text() == "hello " * 1000
    with sqlite3.connect(tmp_path / "foreign") as raw:
        raw.execute("CREATE TABLE t (x)")
    with pytest.raises(FileFormatError, match="another program"):
        LatencyDatabase(tmp_path / "foreign")
    LatencyDatabase(tmp_path / "new").close()
    with sqlite3.connect(tmp_path / "new") as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(FileFormatError, match=r"schema version 99.*newer tvm-mpq"):
        LatencyDatabase(tmp_path / "new")


def test_unwritable_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create folder"):
        LatencyDatabase(tmp_path / "file" / "db.sqlite")
    with pytest.raises(OutputError, match="cannot open or write"):
        LatencyDatabase(tmp_path)
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError):
            LatencyDatabase(tmp_path / "locked" / "db.sqlite")


def test_damaged_file_is_refused_in_one_line(tmp_path):
    with LatencyDatabase(tmp_path / "db") as database:
        database.put_all(record(knobs=str(i)) for i in range(500))
    data = bytearray((tmp_path / "db").read_bytes())
    data[2000:] = os.urandom(len(data) - 2000)
    (tmp_path / "db").write_bytes(data)
    with pytest.raises(FileFormatError) as caught, LatencyDatabase(tmp_path / "db") as database:
        list(database.records())
    assert "\n" not in str(caught.value)


def test_closed_database_says_so(db):
    db.close()
    with pytest.raises(InvalidValueError, match="is closed"):
        db.put(RECORD)


def test_default_path_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "tvm-mpq" / "latency.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_path() == Path.home() / ".cache" / "tvm-mpq" / "latency.sqlite"


def test_a_failure_keeps_its_kind(db, tmp_path):
    bad = record(median_us=None, iqr_us=None, failure="it is slow", failure_kind=FailureKind.NOISE)
    db.put(bad)
    assert list(db.records()) == [bad] and stored(db).failure_kind is FailureKind.NOISE
    db.export_jsonl(tmp_path / "out.jsonl")
    with LatencyDatabase(tmp_path / "other") as other:
        other.import_jsonl(tmp_path / "out.jsonl")
        assert list(other.records()) == [bad]
    with sqlite3.connect(db.path) as raw:
        raw.execute("UPDATE latency SET failure_kind = 'boredom'")
    with pytest.raises(FileFormatError, match=r"failure_kind must be one of compile, .*got 'boredom'"):
        list(db.records())
    assert len(db.verify()) == 1


def test_files_of_before_failures_had_kinds_are_read(tmp_path):
    """Schema version 2, and lines of JSON that such a version wrote."""
    with contextlib.closing(sqlite3.connect(tmp_path / "old")) as raw:
        for statement in (text for statements in MIGRATIONS[:2] for text in statements):
            raw.execute(statement)
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute("PRAGMA user_version = 2")
        row = (
            "w",
            "-",
            8,
            "f",
            "{}",
            "t",
            "d",
            "measured",
            "0",
            "0",
            None,
            None,
            0,
            "2025-01-01",
            0,
            None,
            "too noisy",
        )
        raw.execute(f"INSERT INTO latency VALUES ({', '.join('?' * len(row))})", row)
        raw.commit()
    with LatencyDatabase(tmp_path / "old") as database:
        (found,) = database.records()
        assert (found.failure, found.failure_kind) == ("too noisy", None)
        assert database.verify() == []
    line = json.loads(to_json(found))
    del line["failure_kind"]
    assert from_json(json.dumps(line)) == found
    with pytest.raises(FileFormatError, match="failure_kind"):
        from_json(json.dumps({**line, "failure_kind": "boredom"}))


WRITER = """
import dataclasses, sys
from tvm_mpq.schema import LatencyKey, LatencyRecord
from tvm_mpq.tuning.database.latencies import LatencyDatabase
db = LatencyDatabase(sys.argv[1])
for i in range(int(sys.argv[3])):
    key = LatencyKey("w" * 200, "w8a8", 8, sys.argv[2], str(i), "t")
    db.put(LatencyRecord(key, "d", "0", "0", 1.0 * i, 0.0, 5, "2025-01-01T00:00:00+00:00", "measured"))
    print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=path.parent)


@pytest.mark.parametrize("lines", [1, 37, 300])
def test_killed_writer_leaves_every_committed_row(tmp_path, lines):
    process = writer(tmp_path / "db", "a", 10**6)
    try:
        seen = [int(process.stdout.readline()) for _ in range(lines)]
    finally:
        process.send_signal(signal.SIGKILL)
    seen += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    with LatencyDatabase(tmp_path / "db") as database:
        assert database.verify() == []
        stored = {int(r.key.knobs): r.median_us for r in database.records()}
    assert set(seen) <= set(stored)
    assert len(stored) <= len(seen) + 1  # at most the one whose report was cut off
    assert all(value == float(number) for number, value in stored.items())


def test_two_writers_lose_nothing(tmp_path):
    started = time.monotonic()
    both = [writer(tmp_path / "db", name, 2000) for name in ("a", "b")]  # both create the file, too
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with LatencyDatabase(tmp_path / "db") as database:
        assert database.stats().records == 4000
        assert len(list(database.records(family="a"))) == 2000
    assert time.monotonic() - started < 60


def test_migrations_start_from_an_empty_file():
    with tempfile.NamedTemporaryFile() as empty, LatencyDatabase(empty.name) as database:
        assert database.verify() == []
