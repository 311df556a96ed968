"""TVM's runtime as files: which libraries a built model needs, and the headers for a program that calls them.

They come from the packages that are installed here, or from a folder with those of another architecture.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from tvm_mpq.errors import FileFormatError, MissingDependencyError, MissingFileError, TargetMismatchError

CORE = ("libtvm_runtime.so", "libtvm_ffi.so")
"""What every model needs: the virtual machine with the thread pool, and the calling convention below it."""

EXTRA = "libtvm_runtime_extra.so"
"""Functions of TVM that few models call: sorting, top-k, random numbers."""

_CALLED = re.compile(rb"tvm\.contrib\.[\w.]+")

_MACHINES = {62: "x86_64", 183: "aarch64", 40: "arm", 243: "riscv64"}
"""ELF's number of an architecture, as `targets.cpuinfo.architecture` names it."""


class File(Protocol):
    """A file or folder, on disk or within a wheel."""

    @property
    def name(self) -> str: ...
    def iterdir(self) -> Iterator[File]: ...
    def is_dir(self) -> bool: ...
    def is_file(self) -> bool: ...
    def read_bytes(self) -> bytes: ...
    def joinpath(self, name: str, /) -> File: ...


@dataclass(frozen=True)
class RuntimePackages:
    """The packages `tvm` and `tvm_ffi` of one architecture; source: where they come from, for people."""

    tvm: File
    ffi: File
    source: str

    def libraries(self, model: bytes) -> list[File]:
        """What `model`, the bytes of a model.so, needs to run.

        Raises
        ------
        MissingFileError
            If the packages lack one of them.
        TargetMismatchError
            If they are for another architecture than the model.
        """
        homes = [self.tvm.joinpath("lib"), self.ffi.joinpath("lib")]
        found = {
            name: home.joinpath(name) for name in (*CORE, EXTRA) for home in homes if home.joinpath(name).is_file()
        }
        missing = [name for name in CORE if name not in found]
        if missing:
            raise MissingFileError(f"no {', '.join(missing)} in TVM from {self.source}")
        wanted, here = architecture(model), architecture(found[CORE[0]].read_bytes())
        if wanted != here:
            raise TargetMismatchError(
                f"the model is built for {wanted}, TVM's runtime from {self.source} for {here}: fetch the other with "
                f"pip download --no-deps --only-binary=:all: --platform manylinux_2_28_{wanted} -d wheels "
                f"{' '.join(_requirements())}, and give --runtime wheels"
            )
        names = [*CORE]
        called = set(_CALLED.findall(model))
        if called and EXTRA in found:
            names += [EXTRA] if called & set(_CALLED.findall(found[EXTRA].read_bytes())) else []
        return [found[name] for name in names]

    def headers(self) -> Iterator[tuple[PurePosixPath, File]]:
        """(path to include it by, file) of TVM's calling convention for C and C++."""
        root = self.ffi.joinpath("include")
        for part in ("tvm", "dlpack"):
            yield from _files(root.joinpath(part), PurePosixPath(part))

    def licences(self) -> list[File]:
        """Texts that go with the libraries wherever they go."""
        return [file for name in ("LICENSE", "NOTICE") if (file := self.tvm.joinpath(name)).is_file()]


def architecture(library: bytes) -> str:
    """Of a shared library. Raises FileFormatError where it is none for Linux."""
    if library[:4] != b"\x7fELF" or len(library) < 20:
        raise FileFormatError("model.so is no shared library for Linux; build the folder again")
    number = int.from_bytes(library[18:20], "little")
    return _MACHINES.get(number, f"ELF machine {number}")


def installed_runtime() -> RuntimePackages:
    """Of this Python. Raises MissingDependencyError."""
    homes = {}
    for name in ("tvm", "tvm_ffi"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise MissingDependencyError(f"package {name} is not installed; tvm-mpq doctor says more")
        homes[name] = Path(spec.origin).parent
    return RuntimePackages(homes["tvm"], homes["tvm_ffi"], "this Python's packages")


def runtime_in(folder: Path) -> RuntimePackages:
    """Of a folder that holds the two wheels, or the packages unpacked. Raises MissingFileError, FileFormatError."""
    roots: list[File] = [folder]
    try:
        roots += [zipfile.Path(wheel) for wheel in sorted(folder.glob("*.whl"))]
    except (OSError, zipfile.BadZipFile) as e:
        raise FileFormatError(f"a wheel in {str(folder)!r} cannot be read: {e}") from e
    found: Mapping[str, File] = {
        name: home for root in roots for name in ("tvm", "tvm_ffi") if (home := root.joinpath(name)).is_dir()
    }
    missing = [name for name in ("tvm", "tvm_ffi") if name not in found]
    if missing:
        raise MissingFileError(
            f"--runtime takes a folder with the wheels of apache-tvm and apache-tvm-ffi, or the packages unpacked "
            f"(got {str(folder)!r}, which lacks {' and '.join(missing)})"
        )
    return RuntimePackages(found["tvm"], found["tvm_ffi"], repr(str(folder)))


def _requirements() -> list[str]:
    """Of the same TVM as here: a library and its runtime agree on their interface only then."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]


def _files(folder: File, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, File]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _files(entry, path / entry.name)
        else:
            yield path / entry.name, entry
