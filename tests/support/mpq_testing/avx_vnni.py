"""Code for AVX-VNNI on CPUs that lack it: see `avx_vnni_trap.c`."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tvm_mpq import targets

_SOURCE = Path(__file__).with_name("avx_vnni_trap.c")


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("AVX-VNNI cannot be imitated without a C compiler")
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "trap.so"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(_SOURCE), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    finally:
        shutil.rmtree(folder)  # what is loaded stays
    library.trap_end.restype = ctypes.c_long
    return library


@contextmanager
def imitated() -> Iterator[None]:
    """Let this process run the instructions of AVX-VNNI, and make sure that it did; skips where that cannot be done."""
    features = targets.features(targets.local_row())
    if "avxvnni" in features:
        yield
        return
    if "avx2" not in features or not sys.platform.startswith("linux"):
        pytest.skip("AVX-VNNI is imitated on x86 CPUs with AVX2 under Linux only")
    library = _library()
    assert library.trap_begin() == 0
    try:
        yield
    finally:
        done = library.trap_end()
    assert done > 0, "nothing ran that needs AVX-VNNI"
