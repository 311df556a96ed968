"""Under a limit a CPU offers no more than the named target row: to every asker and process, and in LLVM's code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tvm
from tvm.target import codegen

from tvm_mpq.errors import UnknownTargetError
from tvm_mpq.targets import (
    cpuinfo,
    describe_rows,
    device_identity,
    features,
    from_tvm,
    local_architecture,
    local_row,
    to_tvm,
)
from tvm_mpq.targets.board import identify
from tvm_mpq.targets.isa_limit import ISA_LIMIT, allowed_features
from tvm_mpq.targets.rows import BY_NAME, ROWS

ROOT = Path(__file__).parents[3]
HERE = [row.name for row in ROWS if cpuinfo.architecture(row.mtriple or "") == local_architecture()]
every_limit = pytest.mark.parametrize("limit", HERE)


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    """Features of this CPU, whatever limit the tests run under; no limit afterwards."""
    monkeypatch.delenv(ISA_LIMIT, raising=False)
    return features(local_row())


@every_limit
def test_the_cpu_offers_what_it_has_and_the_row_too(
    unlimited: frozenset[str], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv(ISA_LIMIT, limit)
    offered = tuple(sorted(unlimited & set(BY_NAME[limit].isa_features)))
    row = local_row()
    assert row.isa_features == offered
    assert ISA_LIMIT in row.source
    assert tuple(describe_rows()[0]["features"]) == offered
    assert device_identity(row, 1).isa_features == offered
    assert features(from_tvm(to_tvm(row))) == frozenset(offered)


@every_limit
def test_llvm_is_told(unlimited: frozenset[str], monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(ISA_LIMIT, limit)
    row = local_row()
    known = cpuinfo.FLAGS[local_architecture()].keys()
    assert frozenset(map(str, codegen.llvm_get_cpu_features(to_tvm(row)))) & known == features(row)


SOURCE = """
@T.prim_func(s_tir=True)
def multiply_add(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32")):
    T.func_attr({"tirx.noalias": True, "global_symbol": "multiply_add"})
    for i in T.vectorized(64):
        b[i] = a[i] * a[i] + b[i]
"""


@pytest.mark.isa("avx512f")
@pytest.mark.parametrize(("limit", "widest"), [("x86-64", "xmm"), ("x86-avx2", "ymm"), ("cascadelake", "zmm")])
def test_llvm_emits_no_wider_vectors(monkeypatch: pytest.MonkeyPatch, limit: str, widest: str) -> None:
    monkeypatch.setenv(ISA_LIMIT, limit)
    module = tvm.compile(tvm.IRModule({"f": tvm.script.from_source(SOURCE)}), target=to_tvm(local_row()))
    text = module.mod.inspect_source("s")
    assert max(re.findall(r"%([xyz]mm)\d", text)) == widest
    assert ("vfmadd" in text) == (limit != "x86-64")


def test_child_processes_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_LIMIT, HERE[0])
    code = "from tvm_mpq.targets import describe_rows; print(*describe_rows()[0]['features'])"  # does not load TVM
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == local_row().isa_features


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: avx2 fma avx512f\n"
ASIMD_AND_DOTPROD = (1 << 0 | 1 << 1 | 1 << 20, 0)


def test_a_board_is_limited_too_when_the_row_is_of_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine is the same CPU, and must not offer more than the CPU does."""

    def boards() -> tuple[tuple[str, ...], tuple[str, ...]]:
        x86 = identify({"/proc/cpuinfo": X86}.get, "x86_64", (0, 0))
        arm = identify({}.get, "aarch64", ASIMD_AND_DOTPROD)
        return x86.isa_features, arm.isa_features

    monkeypatch.delenv(ISA_LIMIT, raising=False)
    assert boards() == (("avx2", "avx512f", "fma"), ("dotprod", "fp-armv8", "neon"))
    monkeypatch.setenv(ISA_LIMIT, "haswell")
    assert boards() == (("avx2", "fma"), ("dotprod", "fp-armv8", "neon"))
    monkeypatch.setenv(ISA_LIMIT, "cortex-a72")
    assert boards() == (("avx2", "avx512f", "fma"), ("fp-armv8", "neon"))


def test_a_name_that_is_no_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_LIMIT, "avx1024")
    with pytest.raises(UnknownTargetError, match=r"TVM_MPQ_ISA_LIMIT must be unset or one of .*x86-avx2.*'avx1024'"):
        local_row()


def test_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_LIMIT, "")
    assert allowed_features(local_architecture()) is None
    assert ISA_LIMIT not in local_row().source


ASKERS = {
    "detect.py",  # local_row
    "cpuinfo.py",  # reads the file
    "board.py",  # another machine's file
    "describe.py",  # the same question without loading TVM
    "probe.py",  # asks a board
    "doctor.py",  # whether LLVM works at all
}
QUESTIONS = re.compile(r"llvm_get_system_cpu|read_cpuinfo|/proc/cpuinfo")


def test_nobody_else_asks_what_this_cpu_is() -> None:
    """Everything else learns it from `local_row`, so that one limit reaches all."""
    folders = ("tvm_mpq", "targets", "tuning", "passes", "benchmarks", "tests", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    others = [path for path in files if Path(__file__).parent not in path.parents]
    assert {path.name for path in others if QUESTIONS.search(path.read_text(encoding="utf-8"))} == ASKERS
