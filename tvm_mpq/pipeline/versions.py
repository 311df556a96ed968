"""Which code a kernel is, without generating it again: generating one takes a tenth of a second.

What a kernel's version was is kept in the database beside a digest of all the code that generates kernels; it holds as
long as that digest does.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import psutil
import tvm

import tvm_mpq.kernels
import tvm_mpq.numerics
import tvm_mpq.schema
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.pipeline.kernel_store import KernelStore
from tvm_mpq.tuning.database import LatencyDatabase
from tvm_mpq.tuning.results import ResultStore

_DOUBT_SEC = 10.0
"""Files changed since this process began may not be the code that it has loaded; clocks of files and processes differ
by less than this."""


def _started() -> float:
    """When this process began, before it loaded anything; seconds since the epoch."""
    return float(psutil.Process().create_time())


@functools.lru_cache(maxsize=1)
def code_digest() -> str | None:
    """Of the sources that generate kernels and of TVM's version; None where they are being edited just now."""
    whole = hashlib.sha256(tvm.__version__.encode())
    settled = _started() - _DOUBT_SEC
    files = [Path(str(tvm_mpq.schema.__file__))]
    for package in (tvm_mpq.kernels, tvm_mpq.numerics):
        files += sorted(Path(str(package.__file__)).parent.rglob("*.py"))
    for file in files:
        if file.stat().st_mtime > settled:
            return None
        whole.update(file.name.encode() + file.read_bytes())
    return whole.hexdigest()


class Versions:
    """`of(kernel)` is `store.source(kernel).version`, from memory where possible; `save` what was learned.

    code: digest of all that generates kernels, None while it is being edited.
    """

    def __init__(self, db: LatencyDatabase, store: KernelStore, target: str) -> None:
        self._store, self._results, self._key = store, ResultStore(db), target
        self._compiled_for = repr(store.target())
        self.code = code_digest()
        kept = self._results.get("kernel_versions", target) if self.code else None
        self._known: dict[str, str] = kept["versions"] if kept and kept["digest"] == self.code else {}
        self._new = False

    def remembered(self, kernel: Kernel) -> str | None:
        """The version of a kernel's code, None when it would have to be generated to know."""
        return self._known.get(self._name(kernel))

    def of(self, kernel: Kernel) -> str:
        """The version of a kernel's code."""
        name = self._name(kernel)
        if name not in self._known:
            self._known[name] = self._store.source(kernel).version
            self._new = True
        return self._known[name]

    def _name(self, kernel: Kernel) -> str:
        request = kernel.request
        text = "|".join((*kernel.key, *sorted(request.features), str(request.threads), self._compiled_for))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def save(self) -> None:
        """Keep what was learned for the next process."""
        if self._new and self.code:
            self._results.put("kernel_versions", self._key, {"digest": self.code, "versions": self._known})
        self._new = False
