from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.report.html import render
from tvm_mpq.report.stored import read_report

Report = dict[str, Any]

READING = {
    "load": 0.25, "governor": None, "clock_mhz": 1500.0, "top_clock_mhz": None, "temperature_c": 61, "throttled": "",
    "throttle_count": 3, "free_memory_bytes": None, "warnings": ["load 3.0"],
}  # fmt: skip


@pytest.fixture
def full(report: Report) -> Report:
    """With everything that `optimize` writes."""
    lost = {"board": "a", "reason": "no answer", "came_back": True}
    return report | {
        "budget": {"size_mb": 0.1, "max_drop": None},
        "correction": {"scale": 1.0},
        "predictor": {"mape": [0.1]},
        "health": {"start": READING, "end": READING},
        "boards": {"used": ["b"], "lost": [lost], "emulated": False},
    }


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "report.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_what_was_written_comes_back(full: Report, tmp_path: Path) -> None:
    """Also the keys that were numbers, and keys of a newer version."""
    full["new"] = {"anything": [1]}
    assert read_report(written(tmp_path, json.dumps(full))) == full


@pytest.mark.parametrize("key", ["health", "boards", "budget", "predictor"])
def test_what_may_be_null(full: Report, tmp_path: Path, key: str) -> None:
    full[key] = None
    assert read_report(written(tmp_path, json.dumps(full))) == full


def test_an_older_report_lacks_parts(report: Report, tmp_path: Path) -> None:
    """Its page is made all the same."""
    old = {key: report[key] for key in ("operators", "plan", "latency_ms")}
    found = read_report(written(tmp_path, json.dumps(old)))
    assert found == old and "stem" in render(found)


@pytest.mark.parametrize(
    ("way", "value", "words"),
    [
        (("operators",), 5, "report.operators must be a list, got 5"),
        (("operators", 0), "x", "report.operators[0] must be an object, got 'x'"),
        (("operators", 1, "name"), None, "report.operators[1].name must be text, got None"),
        (("operators", 0, "latency_us"), "12", "report.operators[0].latency_us must be a number, got '12'"),
        (("operators", 0, "macs"), 1.5, "report.operators[0].macs must be a whole number, got 1.5"),
        (("operators", 0, "macs"), True, "report.operators[0].macs must be a whole number, got True"),
        (
            ("operators", 0, "candidates", "w8a8", "latency_us"),
            {"x": 1.0},
            "a key of report.operators[0].candidates.w8a8.latency_us must be a whole number, got 'x'",
        ),
        (("operators", 0, "candidates", "w8a8"), {"loss": 0.0}, "w8a8 lacks latency_us, size_bytes"),
        (("plan",), ["w8a8"], "report.plan must be an object, got ['w8a8']"),
        (("plan", "stem"), 8, "report.plan.stem must be text, got 8"),
        (("latency_ms", "mixed"), None, "report.latency_ms.mixed must be a number, got None"),
        (("calibration", "synthetic"), 0, "report.calibration.synthetic must be true or false, got 0"),
        (("accuracy", "hits"), 3, "report.accuracy.hits must be an object, got 3"),
        (("budget", "size_mb"), "1", "report.budget.size_mb must be a number, got '1'"),
        (("health", "start", "load"), "high", "report.health.start.load must be a number, got 'high'"),
        (("boards", "lost", 0, "came_back"), "no", "report.boards.lost[0].came_back must be true or false, got 'no'"),
    ],
)
def test_a_broken_value_is_named_in_one_line(
    full: Report, tmp_path: Path, way: tuple[Any, ...], value: Any, words: str
) -> None:
    part = broken = copy.deepcopy(full)
    for key in way[:-1]:
        part = part[key]
    part[way[-1]] = value
    with pytest.raises(FileFormatError) as caught:
        read_report(written(tmp_path, json.dumps(broken)))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; optimize again")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ('{"plan": {}, "operators": [', "Expecting value"),
        (b"\xff\xfe", "utf-8"),
        ("[]", "report must be an object, got []"),
        ("{}", "report lacks latency_ms, operators, plan"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_no_report_at_all(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(FileFormatError, match="is no report of tvm-mpq optimize") as caught:
        read_report(written(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no report.json in .*; tvm-mpq optimize --out"):
        read_report(tmp_path / "report.json")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(FileFormatError, match="is no report"):
        read_report(tmp_path / "report.json")
