"""TVM without PyTorch, which TVM imports wherever it finds it: seconds and 150 MB that few commands need.

It does so to be the second of the two, for the sake of Windows (a comment in `tvm_ffi/__init__.py`), and for modules
that call PyTorch's functions, of which there are none here. PyTorch therefore looks as if it were not installed while
`tvm` is imported, and only then: models that are PyTorch's, and training, import it afterwards.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

HIDDEN, FROM = "torch", "tvm"


class _Unseen:
    """Stands before the usual finders, and finds `FROM` as they do, to be executed without `HIDDEN`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != FROM or HIDDEN in sys.modules:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(FROM)
        loader = spec.loader if spec else None
        if loader is None:
            return spec
        execute = loader.exec_module

        def alone(module: ModuleType) -> None:
            sys.modules[HIDDEN] = None  # type: ignore[assignment]
            try:
                execute(module)
            finally:
                del sys.modules[HIDDEN]

        loader.exec_module = alone  # type: ignore[method-assign]
        return spec


def import_tvm_alone() -> None:
    """From now on, in this process; without effect once either is imported."""
    if sys.platform == "linux" and not {HIDDEN, FROM, "tvm_ffi"} & sys.modules.keys():
        sys.meta_path.insert(0, _Unseen())
