"""What a CPU is that this program can only ask questions: another machine behind a connection.

The questions (read this file, tell your machine name) are answered elsewhere; here their answers become facts. An
emulator shows its host's /proc, so what the kernel told the process itself (`hwcap`) comes first where it says enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm_mpq.errors import InvalidValueError, TargetMismatchError
from tvm_mpq.schema import DeviceIdentity
from tvm_mpq.targets import cpuinfo
from tvm_mpq.targets.detect import reconcile
from tvm_mpq.targets.health import Read
from tvm_mpq.targets.isa_limit import allowed_features
from tvm_mpq.targets.rows import ROWS, TargetRow

# Bits of the auxiliary vector (Linux, asm/hwcap.h): LLVM's feature -> (0 = AT_HWCAP or 1 = AT_HWCAP2, bit).
_ARM64_BITS = {
    "fp-armv8": (0, 0),
    "neon": (0, 1),
    "fullfp16": (0, 10),
    "dotprod": (0, 20),
    "sve": (0, 22),
    "sve2": (1, 1),
    "i8mm": (1, 13),
    "bf16": (1, 14),
}
_ARM32_BITS = {"neon": (0, 12), "vfp4": (0, 16)}
# RISC-V has one bit a letter.
_RISCV_BITS = {name: (0, ord(name) - ord("a")) for name in "acdfm"} | {"v": (0, 21), "zvl128b": (0, 21)}
_HWCAPS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "aarch64": _ARM64_BITS,
    "arm": _ARM32_BITS,
    "riscv64": _RISCV_BITS,
}

# (implementer, part) of the Main ID Register -> LLVM's name of the core.
_ARM_CORES = {
    ("0x41", "0xc07"): "cortex-a7",
    ("0x41", "0xd03"): "cortex-a53",
    ("0x41", "0xd05"): "cortex-a55",
    ("0x41", "0xd08"): "cortex-a72",
    ("0x41", "0xd0b"): "cortex-a76",
    ("0x41", "0xd0c"): "neoverse-n1",
    ("0x41", "0xd40"): "neoverse-v1",
    ("0x41", "0xd47"): "cortex-a710",
    ("0x41", "0xd49"): "neoverse-n2",
}

# The word that /proc/cpuinfo of each architecture has and no other's.
_SIGNS = {"x86_64": ("flags",), "aarch64": ("CPU part",), "arm": ("CPU part",), "riscv64": ("isa",)}


@dataclass(frozen=True)
class Board:
    """A CPU seen through a connection."""

    architecture: str
    cpu_model: str
    core_type: str
    isa_features: tuple[str, ...]  # LLVM's names, sorted
    cores: int
    emulated: bool = False  # an emulator runs it: its integers are real, its times mean nothing

    def identity(self, threads: int) -> DeviceIdentity:
        """As the latency database names it. Raises InvalidValueError if `threads` is below 1."""
        if threads < 1:
            raise InvalidValueError(f"threads must be 1 or more (got {threads})")
        return DeviceIdentity(self.cpu_model, self.core_type, self.isa_features, self.cores, threads)


def identify(read: Read, machine: str, hwcap: tuple[int, int], llvm_cpu: str | None = None) -> Board:
    """Facts of the machine that answers.

    Parameters
    ----------
    machine : what uname calls it there, such as `aarch64`.
    hwcap : AT_HWCAP and AT_HWCAP2 of the process that answers; 0 where there is none.
    llvm_cpu : LLVM's name of the core when LLVM is there.
    """
    architecture = cpuinfo.architecture(machine)
    text = read("/proc/cpuinfo") or ""
    fields = _fields(text)
    native = any(sign in fields for sign in _SIGNS.get(architecture, ())) or not text
    kernel = (read("/proc/sys/kernel/arch") or machine).strip()
    emulated = not native or not _runs_natively(architecture, cpuinfo.architecture(kernel))
    info = cpuinfo.parse_cpuinfo(text) if native else cpuinfo.CpuInfo(None, None, None)
    model = info.model or "unknown"
    if emulated:
        model = f"emulated {architecture}"
    return Board(
        architecture,
        model,
        _core_type(fields if native else {}, llvm_cpu),
        _features(architecture, info.flags, hwcap),
        info.physical_cores or text.count("processor\t:") or 1,
        emulated,
    )


def missing(row: TargetRow, board: Board) -> list[str]:
    """What a board lacks to run code for `row`: its architecture, or else feature names; empty = it can."""
    if row.mtriple is not None:
        wanted = cpuinfo.architecture(row.mtriple)
        if wanted != board.architecture:
            return [wanted]
        if "linux" not in row.mtriple:  # a board answers as Linux does
            return [row.mtriple]
    return sorted(set(row.isa_features) - set(board.isa_features))


def fitting(board: Board) -> list[str]:
    """Names of the rows that a board can run: its own core's first, then the one with the most features."""
    rows = [row for row in ROWS if not missing(row, board)]
    rows.sort(key=lambda row: (row.mcpu != board.core_type, -len(row.isa_features), row.name))
    return [row.name for row in rows]


def require(row: TargetRow, board: Board, where: str) -> None:
    """Raise TargetMismatchError when the board at `where` cannot run code for `row`."""
    lacking = missing(row, board)
    if not lacking:
        return
    names = fitting(board)
    advice = f"choose --target {names[0]}" if names else "no target row fits it"
    raise TargetMismatchError(
        f"target {row.name!r} needs {', '.join(lacking)}, which {where} lacks: it is {board.architecture} "
        f"({board.cpu_model}) with {' '.join(board.isa_features) or 'no known feature'}; {advice}"
    )


def _fields(text: str) -> dict[str, str]:
    """Of the first processor."""
    lines = (line.partition(":") for line in text.split("\n\n")[0].split("\n"))
    return {key.strip(): value.strip() for key, colon, value in lines if colon}


def _runs_natively(architecture: str, kernel: str) -> bool:
    return architecture == kernel or (architecture, kernel) == ("arm", "aarch64")


def _features(architecture: str, flags: frozenset[str] | None, hwcap: tuple[int, int]) -> tuple[str, ...]:
    table, allowed = cpuinfo.FLAGS.get(architecture, {}), allowed_features(architecture)
    bits = _HWCAPS.get(architecture)
    if bits is not None and any(hwcap):
        told = frozenset(name for name, (word, bit) in bits.items() if hwcap[word] >> bit & 1)
        return reconcile(told, None, table, allowed)[0]
    return reconcile(frozenset(), flags or frozenset(), table, allowed)[0]


def _core_type(fields: Mapping[str, str], llvm_cpu: str | None) -> str:
    if llvm_cpu and not llvm_cpu.startswith("generic"):
        return llvm_cpu
    part = (fields.get("CPU implementer", ""), fields.get("CPU part", ""))
    return _ARM_CORES.get(part) or llvm_cpu or "generic"
