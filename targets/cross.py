"""Linkers: which command links a library for another architecture, and which Debian package brings it.

LLVM in TVM compiles for every target, but it does not link: that takes the target's own compiler driver.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_mpq.errors import MissingDependencyError
from tvm_mpq.targets import cpuinfo
from tvm_mpq.targets.rows import TargetRow


@dataclass(frozen=True)
class Toolchain:
    """What makes libraries for one architecture under Linux."""

    triple: str  # as LLVM and GNU both read it
    package: str  # Debian's name


TOOLCHAINS: Mapping[str, Toolchain] = {
    "x86_64": Toolchain("x86_64-linux-gnu", "g++-x86-64-linux-gnu"),
    "aarch64": Toolchain("aarch64-linux-gnu", "g++-aarch64-linux-gnu"),
    "arm": Toolchain("arm-linux-gnueabihf", "g++-arm-linux-gnueabihf"),
    "riscv64": Toolchain("riscv64-linux-gnu", "g++-riscv64-linux-gnu"),
}
"""Architecture, as `cpuinfo.architecture` names it, to its toolchain."""


def find_linker(architecture: str, which: Callable[[str], str | None] = shutil.which) -> str | None:
    """Command that links for an architecture, None when none is in PATH."""
    toolchain = TOOLCHAINS.get(architecture)
    if toolchain is None:
        return None
    names = [f"{toolchain.triple}-{driver}" for driver in ("g++", "gcc", "clang++", "clang")]
    return next((found for found in map(which, names) if found), None)


def linker_for(architecture: str, which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The linker to give to the compiler; None where this machine's own one is right.

    Raises
    ------
    MissingDependencyError
        If libraries for `architecture` cannot be linked here; the text names the package to install.
    """
    if architecture == cpuinfo.architecture(platform.machine()):
        return None
    found = find_linker(architecture, which)
    if found is not None:
        return found
    toolchain = TOOLCHAINS.get(architecture)
    if toolchain is None:
        raise MissingDependencyError(
            f"no linker is known for {architecture}; known are {', '.join(TOOLCHAINS)}: build on the device itself"
        )
    raise MissingDependencyError(
        f"libraries for {architecture} need {toolchain.triple}-g++, which is not in PATH: "
        f"apt install {toolchain.package} (or your system's cross compiler for {toolchain.triple})"
    )


def linker_of(row: TargetRow) -> str | None:
    """`linker_for` the row's architecture; a row without a triple is for the machine that compiles."""
    return None if row.mtriple is None else linker_for(cpuinfo.architecture(row.mtriple))


def export(executable: Any, path: Path, linker: str | None, objects: Sequence[Path] = ()) -> None:
    """Write a compiled module, and object files that it calls, as a shared library.

    linker: links it, None = this machine's own.
    """
    from tvm.support import cc

    addons = [str(file) for file in objects]
    executable.export_library(str(path), fcompile=cc.cross_compiler(linker) if linker else None, addons=addons)
