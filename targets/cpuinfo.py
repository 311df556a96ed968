"""What the operating system says about this CPU: model, features, physical cores, caches.

Parsing is apart from reading, so that another machine's files can be tested. On systems without /proc (macOS, Windows)
every question is answered by `platform` and `os` as far as they know, else by None.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# LLVM's name of each feature that kernels choose by -> the kernel's name of it in /proc/cpuinfo.
X86_FLAGS: Mapping[str, str] = {
    "avx": "avx",
    "avx2": "avx2",
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512f": "avx512f",
    "avx512fp16": "avx512_fp16",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "gfni": "gfni",
    "popcnt": "popcnt",
    "sse4.1": "sse4_1",
    "ssse3": "ssse3",
}
ARM64_FLAGS: Mapping[str, str] = {
    "bf16": "bf16",
    "dotprod": "asimddp",
    "fp-armv8": "fp",  # every 64-bit ARM core has it, and no row of 32-bit ARM
    "fullfp16": "asimdhp",
    "i8mm": "i8mm",
    "neon": "asimd",
    "sve": "sve",
    "sve2": "sve2",
}
ARM32_FLAGS: Mapping[str, str] = {"neon": "neon", "vfp4": "vfpv4"}
# RISC-V's `isa` line is a string such as rv64imafdcv_zba; zvl128b is what v promises.
RISCV_FLAGS: Mapping[str, str] = {"a": "a", "c": "c", "d": "d", "f": "f", "m": "m", "v": "v", "zvl128b": "v"}

FLAGS: Mapping[str, Mapping[str, str]] = {
    "x86_64": X86_FLAGS,
    "aarch64": ARM64_FLAGS,
    "arm": ARM32_FLAGS,
    "riscv64": RISCV_FLAGS,
}
"""Architecture -> feature names. These are all the features a target row may claim."""


@dataclass(frozen=True)
class CpuInfo:
    """The parsed /proc/cpuinfo; flags is None where the file says nothing about them."""

    model: str | None
    flags: frozenset[str] | None
    physical_cores: int | None


def architecture(text: str) -> str:
    """LLVM's architecture of a triple or machine name: x86_64, aarch64, arm, riscv64 or, unknown, the text itself.

    >>> architecture("arm64-apple-macos"), architecture("AMD64"), architecture("armv7-linux-gnueabihf")
    ('aarch64', 'x86_64', 'arm')
    """
    name = text.lower().split("-")[0]
    if name in ("x86_64", "amd64"):
        return "x86_64"
    if name in ("aarch64", "arm64"):
        return "aarch64"
    if name.startswith(("arm", "thumb")):
        return "arm"
    return name


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read /proc/cpuinfo of x86, ARM or RISC-V.

    Cores of different kinds (big.LITTLE) may differ in features: only what all have counts.
    """
    model: str | None = None
    flags: frozenset[str] | None = None
    cores: set[tuple[str, str]] = set()
    for block in text.strip().split("\n\n"):
        lines = (line.partition(":") for line in block.split("\n"))
        fields = {key.strip(): value.strip() for key, colon, value in lines if colon}
        if "processor" not in fields:
            continue  # ARM ends with a block about the board
        model = model or _model(fields)
        found = _flags(fields)
        if found is not None:
            flags = found if flags is None else flags & found
        if "core id" in fields:
            cores.add((fields.get("physical id", "0"), fields["core id"]))
    return CpuInfo(model, flags, len(cores) or None)


def _model(fields: Mapping[str, str]) -> str | None:
    if "CPU part" in fields:
        return f"implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return fields.get("model name") or fields.get("uarch")


def _flags(fields: Mapping[str, str]) -> frozenset[str] | None:
    if "isa" in fields:
        base, *extensions = fields["isa"].lower().split("_")
        letters = base.removeprefix("rv64").removeprefix("rv32").replace("g", "imafd")
        return frozenset([*letters, *extensions])
    text = fields.get("flags", fields.get("Features"))
    return None if text is None else frozenset(text.split())


def read_cpuinfo(path: Path = Path("/proc/cpuinfo")) -> CpuInfo:
    """This machine's CPU; all None where there is no such file."""
    try:
        info = parse_cpuinfo(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        info = CpuInfo(None, None, None)
    return info


def cpu_model(info: CpuInfo) -> str:
    """The CPU's name for people and for the device identity."""
    return info.model or platform.processor() or platform.machine() or "unknown"


def core_count(info: CpuInfo) -> int:
    """Physical cores of the machine, or logical ones where the system does not tell them apart.

    Not the cores this process may use: an identity must not change because somebody pinned the program to one.
    """
    return info.physical_cores or os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[int, int]:
    """Level -> bytes of the data or unified caches that the first core sees; empty where the system does not say."""
    sizes = {}
    for index in sorted(root.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text("ascii").strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[int(level)] = _size(size)
        except (OSError, ValueError):
            continue  # a virtual machine may leave entries empty
    return sizes


def _size(text: str) -> int:
    unit = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1:])
    return int(text[:-1]) * unit if unit else int(text)
