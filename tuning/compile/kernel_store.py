"""Compiled kernels on disk, named by their code, so that an interrupted or repeated run compiles nothing twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi

from tvm_mpq.errors import NoKernelError
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.schema import Progress
from tvm_mpq.tuning.compile.build import BuildResult, build_modules


@dataclass(frozen=True)
class KernelSource:
    """A kernel's code and the hash that names it, its library, and its code in every latency record."""

    version: str
    code: Kernel | tvm.tirx.PrimFunc
    buffers: tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype of each argument

    @property
    def symbol(self) -> str:
        """Name of the function in its library."""
        return f"k_{self.version}"

    def arguments(self) -> list[npt.NDArray[Any]]:
        """Seeded arrays for all buffers; values as in real networks: no denormals, no saturated paths."""
        rng = np.random.default_rng(0)
        return [_example(rng, shape, dtype) for shape, dtype in self.buffers]


@dataclass(frozen=True)
class Compiled:
    """A library on disk, or the reason why there is none."""

    source: KernelSource
    path: Path | None
    failure: str | None


def _example(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    if dtype.startswith("float"):
        return rng.uniform(0.001, 0.01, shape).astype(dtype)
    if dtype in ("int32", "int64"):
        return rng.integers(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, int(limits.max) + 1, shape).astype(dtype)


def structure(func: tvm.tirx.PrimFunc) -> str:
    """Equal for functions that are the same code, whatever their variables are called, in every process."""
    return f"{tvm_ffi.structural_hash(func.without_attr('global_symbol'), map_free_vars=True):016x}"


class KernelStore:
    """Libraries of kernels in a folder, for one TVM target.

    linker: command that links for the target, None = this machine's own.
    """

    def __init__(
        self, folder: Path, target_attrs: dict[str, Any], *, workers: int = 2, linker: str | None = None
    ) -> None:
        self.linker = linker
        self._folder = folder
        self._attrs = target_attrs
        self._workers = workers
        self._failures: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def target(self) -> tvm.target.Target:
        """What is compiled for."""
        return tvm.target.Target(dict(self._attrs))

    def source(self, kernel: Kernel) -> KernelSource:
        """The kernel's code and its version."""
        return KernelSource(self._version(kernel.build()), kernel, kernel.buffers)

    def source_of(self, func: tvm.tirx.PrimFunc) -> KernelSource:
        """Any PrimFunc and its version."""
        func = func.without_attr("global_symbol")
        buffers = tuple((tuple(int(d) for d in param.shape), str(param.dtype)) for param in func.params)
        return KernelSource(self._version(func), func, buffers)

    def _version(self, func: tvm.tirx.PrimFunc) -> str:
        """A hash of the code, the target and TVM's version."""
        text = "|".join((structure(func), json.dumps(self._attrs, sort_keys=True), tvm.__version__))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def compile(self, sources: Sequence[KernelSource], progress: Progress | None = None) -> list[Compiled]:
        """Build what is not on disk yet; failures are results with a reason."""
        wanted = {s.symbol: s for s in sources}
        missing = [s for s in wanted.values() if not self._is_whole(s) and s.symbol not in self._failures]
        if missing:
            self._build(missing, progress)
        return [self._result(s) for s in sources]

    def holds(self, kernel: Kernel) -> bool:
        """Whether a kernel is compiled already."""
        return self._is_whole(self.source(kernel))

    def object_of(self, func: tvm.tirx.PrimFunc) -> tuple[Path, str] | None:
        """Object file of a function that was compiled already, and its name there; None where it was not."""
        source = self.source_of(func)
        path = self._object(source)
        return (path, source.symbol) if path.exists() else None

    def require(self, kernels: Sequence[Kernel]) -> list[tuple[Path, str]]:
        """Library and function name of each kernel. Raises NoKernelError with the reason when one cannot be built."""
        found = []
        for kernel, compiled in zip(kernels, self.compile([self.source(k) for k in kernels]), strict=True):
            if compiled.path is None:
                raise NoKernelError(f"kernel {kernel.request.key} does not compile: {compiled.failure}")
            found.append((compiled.path, compiled.source.symbol))
        return found

    def _build(self, sources: Sequence[KernelSource], progress: Progress | None) -> None:
        by_symbol = {s.symbol: s for s in sources}
        items = [(s.symbol, s.code) for s in sources]
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            made = build_modules(items, self.target(), workers=self._workers, linker=self.linker, folder=work)
            # Closed before its folder goes: an error here holds this frame, and with it workers that go on.
            with contextlib.closing(made):
                for done, result in enumerate(made, 1):
                    self._keep(by_symbol[result.name], result)
                    if progress:
                        progress(done, len(items), "compiling kernels")

    def _keep(self, source: KernelSource, result: BuildResult) -> None:
        if result.path is None:
            self._failures[source.symbol] = result.failure or "no reason given"
            return
        assert result.object is not None, "comes with its library"
        # Several functions share a library: each gets a name of its own for it. Linking is atomic, so that a kill
        # leaves either nothing or the whole file; another process may have been faster.
        for made, kept in ((result.object, self._object(source)), (result.path, self._path(source))):
            with contextlib.suppress(FileExistsError):
                os.link(made, kept)

    def _result(self, source: KernelSource) -> Compiled:
        path = self._path(source)
        return Compiled(source, path if path.exists() else None, self._failures.get(source.symbol))

    def _is_whole(self, source: KernelSource) -> bool:
        """Whether library and object are there; libraries of earlier releases stand alone."""
        return self._path(source).exists() and self._object(source).exists()

    def _object(self, source: KernelSource) -> Path:
        return self._path(source).with_suffix(".o")

    def _path(self, source: KernelSource) -> Path:
        return self._folder / f"{source.symbol}.so"
