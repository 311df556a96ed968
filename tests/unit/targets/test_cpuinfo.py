from __future__ import annotations

import os
from pathlib import Path

import pytest

from tvm_mpq.targets import cpuinfo

X86 = """\
processor\t: 0
model name\t: Some CPU @ 2.00GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 avx512_vnni

processor\t: 1
model name\t: Some CPU @ 2.00GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 avx512_vnni

processor\t: 2
model name\t: Some CPU @ 2.00GHz
physical id\t: 1
core id\t\t: 0
flags\t\t: fpu avx2
"""

ARM = """\
processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 1
BogoMIPS\t: 48.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: Some board
Model\t\t: Some board rev 1.1
"""

RISCV = """\
processor\t: 0
hart\t\t: 1
isa\t\t: rv64imafdcv_zicbom_zba
mmu\t\t: sv39
uarch\t\t: sifive,u74-mc
"""


def test_x86_counts_physical_cores_and_keeps_common_flags() -> None:
    info = cpuinfo.parse_cpuinfo(X86)
    assert info.model == "Some CPU @ 2.00GHz"
    assert info.physical_cores == 2
    assert info.flags == {"fpu", "avx2"}


def test_arm_with_unequal_cores_keeps_what_all_have() -> None:
    info = cpuinfo.parse_cpuinfo(ARM)
    assert info.flags == {"fp", "asimd"}
    assert info.model == "implementer 0x41 part 0xd05"
    assert info.physical_cores is None
    assert cpuinfo.core_count(info) == os.cpu_count()


def test_riscv_isa_string() -> None:
    info = cpuinfo.parse_cpuinfo(RISCV)
    assert info.flags is not None
    assert {"i", "m", "a", "f", "d", "c", "v", "zba"} <= info.flags
    assert info.model == "sifive,u74-mc"


@pytest.mark.parametrize("text", ["", "nonsense", "a:b\n\n\n:"])
def test_text_without_facts_says_nothing(text: str) -> None:
    assert cpuinfo.parse_cpuinfo(text) == cpuinfo.CpuInfo(None, None, None)


def test_missing_file_falls_back(tmp_path: Path) -> None:
    info = cpuinfo.read_cpuinfo(tmp_path / "absent")
    assert info == cpuinfo.CpuInfo(None, None, None)
    assert cpuinfo.cpu_model(info)
    assert cpuinfo.core_count(info) >= 1


def test_caches_leave_out_instructions_and_empty_entries(tmp_path: Path) -> None:
    entries = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "1M"), ("3", "Unified", "")]
    for i, entry in enumerate(entries):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), entry, strict=True):
            (folder / name).write_text(value + "\n")
    assert cpuinfo.cache_bytes(tmp_path) == {1: 48 * 1024, 2: 1024 * 1024}
    assert cpuinfo.cache_bytes(tmp_path / "absent") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x86_64-conda-linux-gnu", "x86_64"),
        ("AMD64", "x86_64"),
        ("arm64-apple-macos", "aarch64"),
        ("aarch64", "aarch64"),
        ("armv7l", "arm"),
        ("riscv64-linux-gnu", "riscv64"),
        ("s390x", "s390x"),
    ],
)
def test_architecture(text: str, expected: str) -> None:
    assert cpuinfo.architecture(text) == expected
