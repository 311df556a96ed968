from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tvm_mpq.targets import ROWS, cpuinfo, describe, describe_rows, local_row, missing_features

FAKE = cpuinfo.CpuInfo("Some CPU", frozenset({"avx", "avx2", "bmi2", "f16c", "fma", "popcnt", "sse4_1", "ssse3"}), 4)


def test_every_row_is_described() -> None:
    rows = describe_rows()
    assert [row["name"] for row in rows] == ["local", *(row.name for row in ROWS)]
    assert json.loads(json.dumps(rows)) == rows
    assert all(row["source"] for row in rows)


def test_local_is_what_llvm_and_the_system_say() -> None:
    local, row = describe_rows()[0], local_row()
    assert (tuple(local["features"]), local["cores"]) == (row.isa_features, row.cores)


def test_what_runs_here_agrees_with_what_measuring_asks() -> None:
    for described, row in zip(describe_rows()[1:], ROWS, strict=True):
        assert described["lacking"] == missing_features(row)
        assert described["runs_here"] == (not missing_features(row))


@pytest.mark.parametrize(
    ("name", "lacking"),
    [("x86-avx2", []), ("skylake-avx512", ["avx512bw", "avx512cd", "avx512dq"]), ("cortex-a53", ["aarch64"])],
)
def test_another_cpu(monkeypatch: pytest.MonkeyPatch, name: str, lacking: list[str]) -> None:
    monkeypatch.setattr(cpuinfo, "read_cpuinfo", lambda: FAKE)
    monkeypatch.setattr(describe.platform, "machine", lambda: "AMD64")
    local, *rows = describe_rows()
    assert local["source"] == "this machine: Some CPU, x86_64"
    assert next(row for row in rows if row["name"] == name)["lacking"][:3] == lacking


def test_llvm_is_asked_where_the_system_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(local_row().isa_features)
    monkeypatch.setattr(cpuinfo, "read_cpuinfo", lambda: cpuinfo.CpuInfo(None, None, None))
    assert describe_rows()[0]["features"] == expected


@pytest.mark.skipif(cpuinfo.read_cpuinfo().flags is None, reason="this system says nothing about CPU features")
def test_tvm_is_not_loaded() -> None:
    code = "import sys; from tvm_mpq.targets import describe_rows; describe_rows(); print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
