"""Arrays that a `LocalSession` and its process hand each other in files of the folder they share.

What goes through TVM's socket comes at some 30 MB/s, and an input of ImageNet's size takes 20 ms; a file takes one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_BYTES = 1 << 12
"""What is smaller goes through the socket: it takes no longer there."""

READ, WRITE = "tvm_mpq.tensor_from_file", "tvm_mpq.tensor_to_file"
"""Global functions of the process: (path, dtype, *shape) -> tensor, and (tensor, path)."""


def register() -> None:
    """Offer both functions in this process."""
    import tvm

    @tvm.register_global_func(READ, override=True)
    def read(path: str, dtype: str, *shape: int) -> Any:
        return tvm.runtime.tensor(np.fromfile(path, dtype).reshape([int(size) for size in shape]), tvm.cpu())

    @tvm.register_global_func(WRITE, override=True)
    def write(tensor: Any, path: str) -> None:
        tensor.numpy().tofile(path)


def path_in(folder: str) -> Path:
    """The one file, which each array overwrites."""
    return Path(folder) / "array.bin"


def is_worth_it(dtype: Any, size: int) -> bool:
    """Whether an array goes by file. Types that NumPy does not have go through the socket."""
    try:
        return bool(np.dtype(dtype).itemsize * size >= LEAST_BYTES)
    except TypeError:
        return False


def read_array(path: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The array that the process wrote."""
    return np.fromfile(path, dtype).reshape(shape)
