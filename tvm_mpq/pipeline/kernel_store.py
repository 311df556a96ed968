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

from tvm_mpq.errors import NoKernelError
from tvm_mpq.kernels.registry import Kernel, buffers
from tvm_mpq.pipeline.options import Progress
from tvm_mpq.tuning.build import build_modules

CHUNK = 16
"""Kernels compiled between two progress reports; what a kill -9 can lose."""


@dataclass(frozen=True)
class Source:
    """A PrimFunc and the hash that names it, its library, and its code in every latency record."""

    version: str
    func: tvm.tirx.PrimFunc

    @property
    def symbol(self) -> str:
        """Name of the function in its library."""
        return f"k_{self.version}"

    def arguments(self) -> list[npt.NDArray[Any]]:
        """Seeded arrays for all buffers; values as in real networks: no denormals, no saturated paths."""
        rng = np.random.default_rng(0)
        return [_example(rng, shape, dtype) for shape, dtype in buffers(self.func)]


@dataclass(frozen=True)
class Compiled:
    """A library on disk, or the reason why there is none."""

    source: Source
    path: Path | None
    failure: str | None


def _example(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    if dtype.startswith("float"):
        return rng.uniform(0.001, 0.01, shape).astype(dtype)
    if dtype in ("int32", "int64"):
        return rng.integers(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, int(limits.max) + 1, shape).astype(dtype)


class KernelStore:
    """Libraries of PrimFuncs in a folder, for one TVM target.

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
        self._sources: dict[tuple[str, str, str], Source] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def target(self) -> tvm.target.Target:
        """What is compiled for."""
        return tvm.target.Target(dict(self._attrs))

    def source(self, kernel: Kernel) -> Source:
        """The kernel's TIR and its version; built once."""
        if kernel.key not in self._sources:
            self._sources[kernel.key] = self.source_of(kernel.build())
        return self._sources[kernel.key]

    def source_of(self, func: tvm.tirx.PrimFunc) -> Source:
        """Any PrimFunc with its version: a hash of its code, the target and TVM's version."""
        func = func.without_attr("global_symbol")
        text = "|".join((func.script(), json.dumps(self._attrs, sort_keys=True), tvm.__version__))
        return Source(hashlib.sha256(text.encode()).hexdigest()[:24], func)

    def compile(self, sources: Sequence[Source], progress: Progress | None = None) -> list[Compiled]:
        """Build what is not on disk yet; failures are results with a reason."""
        wanted = {s.symbol: s for s in sources}
        missing = [s for s in wanted.values() if not self._path(s).exists() and s.symbol not in self._failures]
        for start in range(0, len(missing), CHUNK):
            self._build(missing[start : start + CHUNK])
            if progress:
                progress(min(start + CHUNK, len(missing)), len(missing), "compiling kernels")
        return [self._result(s) for s in sources]

    def require(self, kernels: Sequence[Kernel]) -> list[tuple[Path, str]]:
        """Library and function name of each kernel. Raises NoKernelError with the reason when one cannot be built."""
        found = []
        for kernel, compiled in zip(kernels, self.compile([self.source(k) for k in kernels]), strict=True):
            if compiled.path is None:
                raise NoKernelError(f"kernel {kernel.request.key} does not compile: {compiled.failure}")
            found.append((compiled.path, compiled.source.symbol))
        return found

    def _build(self, sources: Sequence[Source]) -> None:
        items = [(s.symbol, s.func.with_attr("global_symbol", s.symbol)) for s in sources]
        target = self.target()
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            results = build_modules(items, target, workers=self._workers, linker=self.linker, folder=work)
            for source, result in zip(sources, results, strict=True):
                if result.path is None:
                    self._failures[source.symbol] = result.failure or "no reason given"
                    continue
                # Several functions share a library: each gets a name of its own for it. Linking is atomic, so that a
                # kill leaves either nothing or the whole file; another process may have been faster.
                with contextlib.suppress(FileExistsError):
                    os.link(result.path, self._path(source))

    def _result(self, source: Source) -> Compiled:
        path = self._path(source)
        return Compiled(source, path if path.exists() else None, self._failures.get(source.symbol))

    def _path(self, source: Source) -> Path:
        return self._folder / f"{source.symbol}.so"
