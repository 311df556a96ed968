from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.report.database import show_db

KEY = {"workload": "w", "precision": "w8a8", "out_bits": 8, "family": "f", "knobs": "{}", "target": "t"}
GOOD = {
    "id": "0a1b", "key": KEY, "median_us": 1.5, "iqr_us": 0.1, "failure": None, "provenance": "measured",
    "measured_at": "2025-01-01", "device": "d", "repeats": 9, "stated_error": None, "tvm_version": "0.27",
    "kernel_version": "c0de", "energy_mj": None,
}  # fmt: skip
IDENTITY = {"cpu_model": "A CPU", "core_type": "znver4", "isa_features": ["avx2", "fma"], "cores": 2, "threads": 1}


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_records(capsys: pytest.CaptureFixture[str]) -> None:
    show_db({"database": "x", "records": [GOOD, {**GOOD, "median_us": None, "failure": "crashed"}]})
    found = lines(capsys)
    assert found[1].split() == ["0a1b", "w", "w8a8", "8", "f", "{}", "1.50", "0.100", "measured", "2025-01-01", "d"]
    assert "failed: crashed" in found[2]
    assert found[3] == "2 records"


def test_counts_and_problems(capsys: pytest.CaptureFixture[str]) -> None:
    show_db({"merged": {"added": 1, "replaced": 0, "kept": 2}})
    assert lines(capsys) == ["merged: 1 added, 0 replaced, 2 kept"]
    show_db({"problems": []})
    assert lines(capsys) == ["problems: none"]


def shown(capsys: pytest.CaptureFixture[str], **other: Any) -> dict[str, str]:
    show_db({"database": "x", "record": {**GOOD, "device_identity": IDENTITY, **other}})
    return {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in lines(capsys))}


def test_a_simulated_record_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, provenance="simulated", tvm_version="", energy_mj=0.25, device_identity=None)
    assert (found["source"], found["TVM"], found["energy"], found["device"]) == ("simulated", "-", "0.250 mJ", "d")


def test_a_record_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, median_us=1234.5678)
    assert found == {
        "id": "0a1b",
        "workload": "w",
        "precision": "w8a8",
        "emits": "uint8",
        "kernel": "f",
        "knobs": "{}",
        "target": "t",
        "CPU": "A CPU (znver4)",
        "features": "avx2 fma",
        "cores": "2, threads 1",
        "median": "1234.57 us",
        "IQR": "0.1 us",
        "repeats": "9",
        "source": "measured",
        "measured at": "2025-01-01",
        "TVM": "0.27",
        "kernel version": "c0de",
    }


def test_predictions_failures_and_other_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, provenance="predicted", stated_error=0.1)["source"] == "predicted, stated error 10.0 %"
    found = shown(capsys, median_us=None, iqr_us=None, failure="crashed", device_identity=None)
    assert (found["failure"], found["device"]) == ("crashed", "d") and "median" not in found
