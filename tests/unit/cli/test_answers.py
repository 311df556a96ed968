"""What commands print: their answer alone, as a table or as one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpq_testing.command_line import Run, failed, one_object
from tvm_mpq.cli import common


def test_a_report_is_shown_again_and_its_page_made(run: Run, tmp_path: Path) -> None:
    kept = {"operators": [], "plan": {}, "latency_ms": {"int8": 2.0, "mixed": 1.0}, "model": "net", "device": "cpu"}
    (tmp_path / "report.json").write_text(json.dumps(kept))
    code, out, _ = run("report", tmp_path)
    assert code == 0 and "net on cpu" in out and "2.00x" in out
    assert "<h1>net</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    names = {name: str(tmp_path / name) for name in ("report.html", "report.json")}
    assert one_object(run("report", tmp_path, "--json")) == {**kept, "artifacts": names}


def test_inspect_shows_the_precisions_chosen_among(run: Run, model: Path) -> None:
    code, out, _ = run("inspect", model, "--precisions", "w2a5, w4a8", "--target", "haswell", "--json")
    assert code == 0
    candidates = [o["candidates"] for o in json.loads(out)["operators"] if o["candidates"]]
    assert candidates and all(set(found) <= {"fp32", "w8a8", "w4a8", "w2a5"} for found in candidates)
    assert any("w2a5" in found for found in candidates)
    code, out, _ = run("inspect", model, "--target", "haswell", "--json")
    reasons = {(row["precision"], row["reason"]) for row in json.loads(out)["left_out"]}
    assert {("w3a8", "same code"), ("fp16", "no kernel")} <= reasons


def test_inspect(run: Run, model: Path) -> None:
    report = one_object(run("inspect", model, "--json"))
    weighted = [o for o in report["operators"] if o["candidates"]]
    assert [o["kind"] for o in weighted] == ["conv2d", "linear"]
    assert [o["macs"] for o in weighted] == [8 * 8 * 8 * 27, 512 * 10]
    assert report["totals"]["quantizable"] == 2
    assert report["inputs"] == {"x": [[1, 3, 8, 8], "float32"]}
    for precision in ("w7a8", "w4a8", "bf16"):
        missing = sum(precision not in o["candidates"] for o in weighted)
        assert sum(row["operators"] for row in report["left_out"] if row["precision"] == precision) == missing
    code, out, err = run("inspect", model)
    assert code == 0, err
    for operator in report["operators"]:
        assert operator["name"] in out
    assert "error" not in err


def test_targets(run: Run) -> None:
    assert one_object(run("targets", "--json"))["targets"][0]["name"] == "local"
    code, out, err = run("targets")
    assert (code, err) == (0, "")
    assert "cortex-a72" in out


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == (0 if report["ok"] else 1)
    from tvm_mpq.pipeline import doctor

    lacking = {"name": "C++ compiler", "status": "missing", "detail": "none", "mend": "install one"}
    monkeypatch.setattr(doctor, "_compiler", lambda: lacking)
    monkeypatch.setattr(doctor, "_tvm", lambda: ({}, []))
    code, out, err = run("doctor")
    assert code == 1
    assert "missing C++ compiler: none\n        -> install one\n" in out
    assert err.startswith("error: ") and err.count("\n") == 1


def put_records(path: Path) -> None:
    from tvm_mpq.schema import LatencyKey, LatencyRecord
    from tvm_mpq.tuning.database.latencies import LatencyDatabase

    with LatencyDatabase(path) as database:
        for name, year, failure in (("old", 2020, None), ("new", 2999, None), ("bad", 2999, "crashed")):
            key = LatencyKey(f"{name}()", "w8a8", 8, "family", "{}", "local")
            median = None if failure else 1.5
            at = f"{year}-01-01T00:00:00+00:00"
            database.put(LatencyRecord(key, "dev", "0.27", "1", median, 0.1, 5, at, "measured", failure=failure))


def test_db(run: Run, tmp_path: Path) -> None:
    path, other, lines = tmp_path / "a.sqlite", tmp_path / "b.sqlite", tmp_path / "all.jsonl"
    put_records(path)

    def workloads(*args: object) -> set[str]:
        return {r["key"]["workload"] for r in one_object(run("db", "list", "--json", *args))["records"]}

    assert workloads("--db", path) == {"old()", "new()", "bad()"}
    assert workloads("--db", path, "--workload", "ol") == {"old()"}
    assert workloads() == set()  # the default database, in a cache folder of its own
    assert one_object(run("db", "export", lines, "--db", path, "--json"))["exported"] == 3
    assert one_object(run("db", "import", lines, "--db", other, "--json"))["imported"]["added"] == 3
    assert one_object(run("db", "merge", path, "--db", other, "--json"))["merged"]["kept"] == 3
    assert one_object(run("db", "verify", "--db", other, "--json"))["problems"] == []
    assert one_object(run("db", "prune", "--older-than-days", 30, "--db", other, "--json"))["pruned"] == 1
    assert workloads("--db", other) == {"new()", "bad()"}
    assert one_object(run("db", "prune", "--failures", "--db", other, "--json"))["pruned"] == 1
    assert workloads("--db", other) == {"new()"}
    assert run("db", "list", "--db", other)[1].endswith("1 records\n")
    failed(run("db", "prune", "--db", other), "condition", code=2)
    failed(run("db", "list", "--db", tmp_path / "none.sqlite"), "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_db_show(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    put_records(path)
    listed = {r["key"]["workload"]: r for r in one_object(run("db", "list", "--db", path, "--json"))["records"]}
    assert len({r["id"] for r in listed.values()}) == 3
    by_id = one_object(run("db", "show", listed["old()"]["id"], "--db", path, "--json"))["record"]
    assert by_id == {**listed["old()"], "device_identity": None}
    assert one_object(run("db", "show", "old", "--precision", "w8a8", "--db", path, "--json"))["record"] == by_id
    code, out, err = run("db", "show", "bad()", "--db", path)
    assert (code, err) == (0, "") and "crashed" in out and listed["bad()"]["id"] in out
    failed(run("db", "show", "()", "--db", path), "3 records match '()'", listed["new()"]["id"], code=2)
    failed(run("db", "show", "old", "--precision", "w4a8", "--db", path), "'old' at precision w4a8", "db list", code=2)


def test_json_has_no_infinity() -> None:
    given = {"a": [float("inf"), 1.5], 8: (float("nan"), "x", None)}
    assert common.finite(given) == {"a": [None, 1.5], "8": [None, "x", None]}


def test_what_libraries_print_is_not_among_the_data() -> None:
    code = (
        "import os; from tvm_mpq import cli, targets;"
        "targets.describe_rows = lambda: [] if os.write(1, b'hello') else None;"
        "cli.main(['targets', '--json']); os.write(1, b'after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    data, _, after = done.stdout.rpartition("}")
    assert (json.loads(data + "}"), after, done.stderr) == ({"targets": []}, "\nafter", "hello")
