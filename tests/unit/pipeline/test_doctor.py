from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.pipeline import doctor

ROOT = Path(__file__).parents[3]


def check(name: str) -> dict[str, str]:
    (found,) = [c for c in doctor.diagnose()["checks"] if c["name"] == name]
    return found


def fake_run(code: int, out: str, err: str = "") -> Callable[..., tuple[int, str, str]]:
    return lambda *args: (code, out, err)


def test_this_machine_is_well() -> None:
    """The tests themselves need all of it."""
    report = doctor.diagnose()
    assert report["ok"], [c for c in report["checks"] if c["status"] == "missing"]
    names = [c["name"] for c in report["checks"]]
    assert len(names) == len(set(names)) >= 15
    for c in report["checks"]:
        assert c["status"] in ("ok", "warning") and c["detail"]
        assert c["mend"] or c["status"] == "ok"


def test_versions_are_those_of_the_project() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"apache-tvm=={doctor.TVM_VERSION}"' in text
    below = re.search(r"apache-tvm-ffi[^\"]*<([\d.]+)\"", text)
    assert below and tuple(map(int, below[1].split("."))) == doctor.FFI_BELOW
    assert f'requires-python = ">={".".join(map(str, doctor.PYTHON_FROM))}"' in text


@pytest.mark.parametrize(
    ("probe", "part"),
    [
        (fake_run(1, "", "Traceback\nModuleNotFoundError: No module named 'tvm'\n"), "No module named 'tvm'"),
        (fake_run(-11, ""), "exit code -11"),
        (fake_run(124, "", "no answer within 120 s"), "no answer"),
        (fake_run(0, "garbage"), "cannot be imported"),
        (fake_run(0, '{"version": "0.20", "llvm": true, "llvm_version": 17, "cpu": "x"}'), "0.20, but kernels"),
    ],
)
def test_a_broken_tvm(monkeypatch: pytest.MonkeyPatch, probe: Callable[..., Any], part: str) -> None:
    monkeypatch.setattr(doctor, "_run", probe)
    _, (tvm, *_) = doctor._tvm()
    assert tvm["status"] == "missing"
    assert part in tvm["detail"]
    assert f"apache-tvm=={doctor.TVM_VERSION}" in tvm["mend"]


def test_tvm_without_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f'{{"version": "{doctor.TVM_VERSION}", "llvm": false, "llvm_version": -1, "cpu": ""}}'
    monkeypatch.setattr(doctor, "_run", fake_run(0, text))
    _, checks = doctor._tvm()
    assert [c["status"] for c in checks if c["name"] == "LLVM in TVM"] == ["missing"]


def test_nothing_else_fails_without_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_tvm", lambda: ({}, []))
    assert check("latency database")["status"] == "warning"


@pytest.mark.parametrize(("version", "status"), [("0.1.14.post1", "ok"), ("0.1.15", "missing"), ("0.2.0", "missing")])
def test_ffi(monkeypatch: pytest.MonkeyPatch, version: str, status: str) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: version)
    assert doctor._ffi("mend")["status"] == status


def test_ffi_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    assert doctor._ffi("mend")["status"] == "missing"


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._compiler()["status"] == "missing"


def test_a_compiler_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    assert "cannot link" in doctor._compiler()["detail"]
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert doctor._compiler()["status"] == "missing"


def test_a_cpu_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"source": "old CPU", "features": []}, {"name": "x", "features": ["avx2"], "runs_here": False}]
    monkeypatch.setattr(doctor.targets, "describe_rows", lambda: rows)
    found = doctor._cpu()
    assert (found["status"], "old CPU" in found["detail"]) == ("warning", True)


def test_solver_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm_mpq.select.ilp", None)
    assert doctor._solver()["status"] == "missing"


def test_database_below_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert doctor._database(usable=True)["status"] == "missing"


def test_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor._database(usable=True)["status"] == "ok"
    assert list(tmp_path.iterdir()) == []  # looking makes nothing
    (tmp_path / "tvm-mpq").mkdir()
    (tmp_path / "tvm-mpq" / "latency.sqlite").write_bytes(b"no database" * 100)
    assert doctor._database(usable=True)["status"] == "missing"


def test_packages_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = {c["name"]: c for c in doctor._packages()}
    assert {c["status"] for c in found.values()} == {"warning"}
    assert "tvm-mpq[torch]" in found["torch"]["mend"]


def test_powersave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "governor").write_text("powersave\n")
    monkeypatch.setattr(doctor, "GOVERNOR", tmp_path / "governor")
    assert doctor._governor()["status"] == "warning"
    monkeypatch.setattr(doctor, "GOVERNOR", tmp_path / "none")
    assert doctor._governor()["status"] == "ok"


@pytest.mark.parametrize(("load", "status"), [(0.1, "ok"), (3.0, "warning")])
def test_load(monkeypatch: pytest.MonkeyPatch, load: float, status: str) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert doctor._load()["status"] == status


def test_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert doctor._cores()["status"] == "warning"
