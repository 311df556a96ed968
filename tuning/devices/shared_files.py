"""Arrays that a `LocalSession` and its process hand each other in files of the folder they share.

What goes through TVM's socket comes at some 30 MB/s, and an input of ImageNet's size takes 20 ms; a file takes one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_BYTES = 1 << 12
"""What is smaller goes through the socket: it takes no longer there."""

READ, WRITE = "tvm_mpq.tensor_from_file", "tvm_mpq.tensor_to_file"
"""Global functions of the process: (path, dtype, *shape) -> tensor, and (tensor, path)."""

RUN = "tvm_mpq.run_network"
"""(virtual machine's module, path, layout of its inputs in the file) -> layout of its outputs there, as `write_arrays`
says: one call where a run takes eight otherwise, which cost more than the run of a small network."""


def register() -> None:
    """Offer all functions in this process."""
    import tvm

    @tvm.register_global_func(READ, override=True)
    def read(path: str, dtype: str, *shape: int) -> Any:
        return tvm.runtime.tensor(np.fromfile(path, dtype).reshape([int(size) for size in shape]), tvm.cpu())

    @tvm.register_global_func(WRITE, override=True)
    def write(tensor: Any, path: str) -> None:
        tensor.numpy().tofile(path)

    @tvm.register_global_func(RUN, override=True)
    def run(machine: Any, path: str, layout: str) -> str:
        result = machine["main"](*map(tvm.runtime.tensor, read_arrays(Path(path), layout)))
        outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return write_arrays(Path(path), [output.numpy() for output in outputs])


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


def write_arrays(path: Path, arrays: Sequence[npt.NDArray[Any]]) -> str:
    """All arrays into a file, one behind the other; returns where they are, for `read_arrays`."""
    with open(path, "wb") as file:
        for x in arrays:
            np.asarray(x, order="C").tofile(file)
    return json.dumps([[str(x.dtype), list(x.shape)] for x in arrays])


def read_arrays(path: Path, layout: str) -> list[npt.NDArray[Any]]:
    """What `write_arrays` wrote. Raises TypeError for types that NumPy does not have."""
    found, offset = [], 0
    for name, shape in json.loads(layout):
        dtype, count = np.dtype(name), math.prod(shape)
        found.append(np.fromfile(path, dtype, count, offset=offset).reshape(shape))
        offset += count * dtype.itemsize
    return found
