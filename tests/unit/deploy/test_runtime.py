from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tvm_mpq.deploy.runtime import EXTRA, RuntimePackages, architecture, installed_runtime, runtime_in
from tvm_mpq.errors import FileFormatError, MissingFileError, TargetMismatchError

X86, ARM = 62, 183


def library(machine: int, text: bytes = b"") -> bytes:
    """The head of a shared library for Linux, and whatever is in it."""
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(4) + text + b"\0"


FILES = {
    "tvm/lib/libtvm_runtime.so": library(ARM),
    "tvm/lib/libtvm_runtime_extra.so": library(ARM, b"tvm.contrib.sort.topk"),
    "tvm/LICENSE": b"Apache",
    "tvm_ffi/lib/libtvm_ffi.so": library(ARM),
    "tvm_ffi/include/tvm/ffi/extra/module.h": b"// module",
    "tvm_ffi/include/dlpack/dlpack.h": b"// dlpack",
    "tvm_ffi/include/tvm_ffi_python_helpers.h": b"// of no use without Python",
}


@pytest.fixture(params=["wheels", "unpacked"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for package in ("tvm", "tvm_ffi"):
        files = {path: data for path, data in FILES.items() if path.startswith(f"{package}/")}
        if request.param == "wheels":
            with zipfile.ZipFile(tmp_path / f"{package}-1-py3-none-any.whl", "w") as wheel:
                for path, data in files.items():
                    wheel.writestr(path, data)
        else:
            for path, data in files.items():
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(data)
    return tmp_path


def names(runtime: RuntimePackages, model: bytes) -> list[str]:
    return [file.name for file in runtime.libraries(model)]


def test_a_models_libraries(folder: Path) -> None:
    runtime = runtime_in(folder)
    core = ["libtvm_runtime.so", "libtvm_ffi.so"]
    assert names(runtime, library(ARM)) == core
    assert names(runtime, library(ARM, b"tvm.contrib.cblas.matmul")) == core, "which that library does not hold either"
    assert names(runtime, library(ARM, b"x\0tvm.contrib.sort.topk\0y")) == [*core, EXTRA]


def test_headers_and_licences(folder: Path) -> None:
    runtime = runtime_in(folder)
    headers = {str(path): file.read_bytes() for path, file in runtime.headers()}
    assert headers == {"tvm/ffi/extra/module.h": b"// module", "dlpack/dlpack.h": b"// dlpack"}
    assert [file.read_bytes() for file in runtime.licences()] == [b"Apache"]


def test_another_architecture_is_refused_with_the_command_that_helps(folder: Path) -> None:
    with pytest.raises(TargetMismatchError, match=r"for x86_64.*for aarch64.*manylinux_2_28_x86_64 .*apache-tvm=="):
        runtime_in(folder).libraries(library(X86))


@pytest.mark.parametrize("model", [b"", b"\x7fELF", b"MZ" + bytes(60)], ids=["empty", "cut", "Windows"])
def test_what_is_no_library(model: bytes) -> None:
    with pytest.raises(FileFormatError, match="no shared library"):
        architecture(model)


def test_an_architecture_without_a_name() -> None:
    assert architecture(library(8)) == "ELF machine 8"


def test_folders_that_hold_no_runtime(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="lacks tvm and tvm_ffi"):
        runtime_in(tmp_path / "nowhere")
    (tmp_path / "tvm").mkdir()
    with pytest.raises(MissingFileError, match="lacks tvm_ffi"):
        runtime_in(tmp_path)
    (tmp_path / "tvm_ffi").mkdir()
    with pytest.raises(MissingFileError, match=r"no libtvm_runtime\.so, libtvm_ffi\.so"):
        runtime_in(tmp_path).libraries(library(ARM))
    (tmp_path / "a.whl").write_bytes(b"no archive")
    with pytest.raises(FileFormatError, match="cannot be read"):
        runtime_in(tmp_path)


def test_the_installed_runtime_is_complete() -> None:
    runtime = installed_runtime()
    assert (Path(str(runtime.tvm)) / "lib" / EXTRA).is_file(), "or networks that sort would fail on a device"
    assert {"tvm/ffi/extra/module.h", "dlpack/dlpack.h"} <= {str(path) for path, _ in runtime.headers()}
