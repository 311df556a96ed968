"""What an object file says of the machine it is for."""

from __future__ import annotations

import struct
from pathlib import Path

ELF = {40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""e_machine, as the ELF specification numbers them; riscv64 shares its number with riscv32."""

MACH_O = {0x0100000C: "aarch64", 0x01000007: "x86_64"}
"""cputype, as Apple's mach/machine.h numbers them."""


def object_architecture(path: Path) -> str:
    """The architecture of a little-endian ELF or 64 bit Mach-O file, as `targets.cpuinfo.architecture` names it."""
    data = path.read_bytes()
    if data[:4] == b"\x7fELF":
        return ELF[struct.unpack_from("<H", data, 18)[0]]
    assert data[:4] == b"\xcf\xfa\xed\xfe", f"{path} is neither ELF nor Mach-O"
    return MACH_O[struct.unpack_from("<I", data, 4)[0]]
