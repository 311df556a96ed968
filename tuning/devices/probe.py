"""Questions to a board that has nothing but TVM's runtime: a small compiled library is sent, which asks Linux there.

TVM's own file download cannot read /proc (it asks for the size first), and a plain server exports nothing that tells
its CPU. So the library calls libc: `fopen` and `fread`, `uname`, `getauxval`. It is compiled for the board's
architecture without any feature, and needs that architecture's linker as every kernel does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from tvm_mpq.errors import DeviceLostError, MeasurementError
from tvm_mpq.targets.board import Board, identify
from tvm_mpq.targets.cpuinfo import architecture
from tvm_mpq.targets.cross import TOOLCHAINS, linker_for
from tvm_mpq.targets.health import Health, read_health
from tvm_mpq.tuning.compile.build import build_modules
from tvm_mpq.tuning.devices.session_base import Session

_PATH_BYTES = 256
_FILE_BYTES = 1 << 19  # /proc/cpuinfo of 256 cores
_NAME_BYTES = 65  # a field of Linux' struct utsname; the machine is the fifth
_AT_HWCAP, _AT_HWCAP2 = 16, 26

_SOURCE = """
# from tvm.script import tirx as T
@T.prim_func(s_tir=True)
def read_file(
    P: T.Buffer(({path},), "uint8"), M: T.Buffer((4,), "uint8"), O: T.Buffer(({file},), "uint8"),
    S: T.Buffer((1,), "int64"),
):
    T.func_attr({{"tirx.noalias": True, "tirx.is_scheduled": True, "global_symbol": "mpq_read_file"}})
    stream: T.let = T.call_extern("handle", "fopen", P.data, M.data)
    S[0] = T.int64(-1)
    if not T.isnullptr(stream):
        S[0] = T.Cast("int64", T.call_extern("{size}", "fread", O.data, T.{size}(1), T.{size}({file}), stream))
        T.evaluate(T.call_extern("int32", "fclose", stream))
"""
_SYSTEM = """
# from tvm.script import tirx as T
@T.prim_func(s_tir=True)
def system(O: T.Buffer(({names},), "uint8"), S: T.Buffer((2,), "int64")):
    T.func_attr({{"tirx.noalias": True, "tirx.is_scheduled": True, "global_symbol": "mpq_system"}})
    T.evaluate(T.call_extern("int32", "uname", O.data))
    S[0] = T.Cast("int64", T.call_extern("{size}", "getauxval", T.{size}({hwcap})))
    S[1] = T.Cast("int64", T.call_extern("{size}", "getauxval", T.{size}({hwcap2})))
"""

# The least CPU of each architecture.
_BASE: dict[str, dict[str, Any]] = {
    "x86_64": {"mcpu": "x86-64"},
    "aarch64": {"mcpu": "generic"},
    "arm": {"mcpu": "cortex-a7", "mfloat-abi": "hard"},
    "riscv64": {"mcpu": "generic-rv64", "mattr": ["+m", "+a", "+f", "+d", "+c"]},
}

# e_machine of an ELF file.
_ELF = {62: "x86_64", 183: "aarch64", 40: "arm", 243: "riscv64"}
_ANY_PROGRAM = ("/bin/true", "/bin/sh", "/proc/self/exe")  # the smallest first: one is sent here whole


class Probe:
    """A session's board, ready to answer. Raises MeasurementError, DeviceLostError, MissingDependencyError."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.architecture = board_architecture(session)
        self._module = session.upload_module(_library(self.architecture))
        device = session.device
        self._file = session.guarded("space on the board", lambda: tvm.runtime.empty((_FILE_BYTES,), "uint8", device))
        self._size = session.array(np.zeros(1, np.int64))
        self._mode = session.array(np.frombuffer(b"r\0\0\0", np.uint8))

    def read(self, path: str) -> str | None:
        """Text of a file there; None when it cannot be read."""
        name = session_path(path)
        if name is None:
            return None
        session = self._session
        session.call(self._module, "mpq_read_file", session.array(name), self._mode, self._file, self._size)
        size = int(session.fetch(self._size)[0])
        if size < 0:
            return None
        if size == 0:
            return ""
        part = session.guarded("a view of a file", lambda: self._file._create_view((size,)))
        return bytes(session.fetch(part)).decode("utf-8", errors="replace")

    def board(self) -> Board:
        """Which CPU answers."""
        session = self._session
        names, words = session.array(np.zeros(6 * _NAME_BYTES, np.uint8)), session.array(np.zeros(2, np.int64))
        session.call(self._module, "mpq_system", names, words)
        machine = bytes(session.fetch(names)[4 * _NAME_BYTES :]).split(b"\0")[0].decode("ascii", errors="replace")
        first, second = (int(word) & (1 << 64) - 1 for word in session.fetch(words))
        if architecture(machine) != self.architecture:  # 32 bit programs on a 64 bit kernel
            machine = self.architecture
        return identify(self.read, machine, (first, second), _llvm(session, "target.llvm_get_system_cpu"))

    def health(self) -> Health:
        """How well it is now."""
        return read_health(self.read)


def session_path(path: str) -> Any:
    """uint8[256] of a path, zero at its end; None when it is too long."""
    text = path.encode()
    if len(text) >= _PATH_BYTES:
        return None
    return np.frombuffer(text.ljust(_PATH_BYTES, b"\0"), np.uint8)


def board_architecture(session: Session) -> str:
    """Architecture of a board of which nothing is known, as `cpuinfo.architecture` names it.

    Raises
    ------
    MeasurementError
        If it does not let itself be found out.
    """
    triple = _llvm(session, "target.llvm_get_system_triple")
    if triple:
        return architecture(triple)
    for program in _ANY_PROGRAM:
        try:
            start = session.download(program)[:20]
        except DeviceLostError:
            raise
        except MeasurementError:
            continue
        if len(start) == 20 and start[:4] == b"\x7fELF":
            machine = int.from_bytes(start[18:20], "little")
            return _ELF.get(machine, f"machine {machine}")
    raise MeasurementError(f"{session.describe()} does not tell its architecture: boards must run Linux")


def _llvm(session: Session, name: str) -> str | None:
    """What LLVM on the board says; None where TVM was installed without it."""
    try:
        return str(session.call_global(name))
    except DeviceLostError:
        raise
    except MeasurementError:
        return None


@functools.cache
def _library(name: str) -> Path:
    linker = linker_for(name)
    attrs = {"kind": "llvm", **_BASE[name]}
    if linker is not None:
        attrs["mtriple"] = TOOLCHAINS[name].triple
    numbers = {
        "path": _PATH_BYTES,
        "file": _FILE_BYTES,
        "names": 6 * _NAME_BYTES,
        "size": "uint32" if name == "arm" else "uint64",
        "hwcap": _AT_HWCAP,
        "hwcap2": _AT_HWCAP2,
    }
    items = [
        (symbol, tvm.script.from_source(source.format(**numbers)))
        for symbol, source in (("mpq_read_file", _SOURCE), ("mpq_system", _SYSTEM))
    ]
    found = list(build_modules(items, tvm.target.Target(attrs), workers=1, linker=linker))
    for result in found:
        if result.path is None:
            raise MeasurementError(f"the probe for {name} cannot be built: {result.failure}")
    path = found[0].path
    assert path is not None and path == found[1].path  # two functions make one group
    return path


def measured_ms(action: Callable[[], Any], clock: Callable[[], float], times: int = 5) -> float:
    """The least of a few durations of `action`, milliseconds."""
    found = []
    for _ in range(times):
        start = clock()
        action()
        found.append((clock() - start) * 1e3)
    return min(found)
