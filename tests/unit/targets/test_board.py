from __future__ import annotations

import pytest

from tvm_mpq.errors import InvalidValueError, TargetMismatchError
from tvm_mpq.targets import resolve
from tvm_mpq.targets.board import _HWCAPS, Board, fitting, identify, missing, require
from tvm_mpq.targets.cpuinfo import FLAGS, architecture
from tvm_mpq.targets.rows import ROWS

X86 = """processor\t: 0
model name\t: AMD Ryzen 7 7700X
physical id\t: 0
core id\t: 0
flags\t\t: fma avx2 avx f16c bmi2 popcnt sse4_1 ssse3

processor\t: 1
model name\t: AMD Ryzen 7 7700X
physical id\t: 0
core id\t: 0
flags\t\t: fma avx2 avx f16c bmi2 popcnt sse4_1 ssse3
"""
CORE = """processor\t: {}
Features\t: fp asimd crc32
CPU implementer\t: 0x41
CPU part\t: 0xd08
"""
A72 = "\n".join(CORE.format(i) for i in range(4)) + "\nHardware\t: BCM2835\nModel\t: Raspberry Pi 4\n"
ASIMD = 1 << 0 | 1 << 1
A72_FEATURES = ("fp-armv8", "neon")


def board(files: dict[str, str], machine: str, hwcap: tuple[int, int] = (0, 0), llvm: str | None = None) -> Board:
    return identify(files.get, machine, hwcap, llvm)


def test_x86_is_known_by_its_flags() -> None:
    found = board({"/proc/cpuinfo": X86}, "x86_64", (0x178BFBFF, 2), "znver4")
    assert (found.architecture, found.cpu_model, found.core_type) == ("x86_64", "AMD Ryzen 7 7700X", "znver4")
    assert found.isa_features == ("avx", "avx2", "bmi2", "f16c", "fma", "popcnt", "sse4.1", "ssse3")
    assert (found.cores, found.emulated) == (1, False)


def test_arm_is_known_without_llvm() -> None:
    found = board({"/proc/cpuinfo": A72, "/proc/sys/kernel/arch": "aarch64\n"}, "aarch64", (ASIMD, 0))
    assert (found.architecture, found.core_type, found.cores) == ("aarch64", "cortex-a72", 4)
    assert (found.isa_features, found.emulated) == (A72_FEATURES, False)
    assert fitting(found)[0] == "cortex-a72"
    assert board({"/proc/cpuinfo": A72}, "aarch64", (ASIMD, 0), "generic").core_type == "cortex-a72"


def test_capabilities_cover_all_features_that_rows_may_claim() -> None:
    for name, bits in _HWCAPS.items():
        assert bits.keys() == FLAGS[name].keys()


def test_arm_capabilities() -> None:
    everything = (1 << 0 | 1 << 1 | 1 << 10 | 1 << 20 | 1 << 22, 1 << 1 | 1 << 13 | 1 << 14)
    found = board({}, "aarch64", everything)
    assert found.isa_features == ("bf16", "dotprod", "fp-armv8", "fullfp16", "i8mm", "neon", "sve", "sve2")
    assert board({}, "armv7l", (1 << 12 | 1 << 16, 0)).isa_features == ("neon", "vfp4")
    riscv = sum(1 << ord(letter) - ord("a") for letter in "imafdc")
    assert board({}, "riscv64", (riscv, 0)).isa_features == ("a", "c", "d", "f", "m")
    assert "zvl128b" in board({}, "riscv64", (riscv | 1 << 21, 0)).isa_features


@pytest.mark.parametrize(
    "files",
    [
        {"/proc/cpuinfo": X86},  # qemu shows its host's
        {"/proc/cpuinfo": A72, "/proc/sys/kernel/arch": "x86_64\n"},  # a newer one makes it up
    ],
)
def test_an_emulated_board_is_no_real_one(files: dict[str, str]) -> None:
    found = board(files, "aarch64", (ASIMD, 0), "generic")
    assert found.emulated
    assert found.cpu_model == "emulated aarch64"
    assert found.isa_features == A72_FEATURES
    real = board({"/proc/cpuinfo": A72}, "aarch64", (ASIMD, 0))
    assert found.identity(1).key != real.identity(1).key


def test_32_bit_programs_on_a_64_bit_kernel_are_not_emulated() -> None:
    found = board({"/proc/cpuinfo": A72, "/proc/sys/kernel/arch": "aarch64"}, "arm", (1 << 12 | 1 << 16, 0))
    assert (found.architecture, found.emulated) == ("arm", False)


def test_identity() -> None:
    one = board({"/proc/cpuinfo": A72}, "aarch64", (ASIMD, 0))
    assert one.identity(2).threads == 2
    assert one.identity(1) != one.identity(2)
    with pytest.raises(InvalidValueError, match="threads must be 1 or more"):
        one.identity(0)


def test_what_a_board_cannot_run_is_refused_by_name() -> None:
    pi = board({"/proc/cpuinfo": A72}, "aarch64", (ASIMD, 0))
    require(resolve("cortex-a53"), pi, "pi:9090")
    assert missing(resolve("cortex-a76"), pi) == ["dotprod", "fullfp16"]
    assert missing(resolve("znver4"), pi) == ["x86_64"]
    assert missing(resolve("apple-m1"), pi) == ["arm64-apple-macos"]
    with pytest.raises(TargetMismatchError) as caught:
        require(resolve("cortex-a76"), pi, "pi:9090")
    text = str(caught.value)
    assert "'cortex-a76' needs dotprod, fullfp16, which pi:9090 lacks" in text
    assert "choose --target cortex-a72" in text and "\n" not in text


@pytest.mark.parametrize("row", [row for row in ROWS if "linux" in (row.mtriple or "")], ids=lambda row: row.name)
def test_every_row_fits_a_board_with_its_own_features(row) -> None:
    own = Board(architecture(row.mtriple), "m", row.mcpu, row.isa_features, 1)
    assert row.name in fitting(own)
