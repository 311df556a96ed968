"""A built folder in this process: called with NumPy arrays, run by plain TVM runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq import targets
from tvm_mpq.errors import DataError, TargetMismatchError
from tvm_mpq.execute.prepare import InputSpecs
from tvm_mpq.pipeline.built_folder import open_folder

Tensors = npt.NDArray[Any] | Sequence[npt.NDArray[Any]] | Mapping[str, npt.NDArray[Any]]
"""One array, arrays in the order of the inputs, or arrays by their inputs' names."""


class LoadedModel:
    """A network that was built before. Calls use memory of calls before: one thread at a time.

    Attributes
    ----------
    plan : Plan
    inputs : {name: (shape, dtype)}
        In the order in which arrays are given.
    """

    def __init__(self, folder: Path) -> None:
        built = open_folder(folder)
        lacking = targets.missing_features(targets.resolve(built.plan.tvm_target()))
        if lacking:
            raise TargetMismatchError(
                f"{str(folder)!r} is built for {built.plan.target}, and this CPU lacks {', '.join(lacking)}; "
                "build it for this CPU with tvm-mpq build --plan, or run it on a board with tvm-mpq run --rpc"
            )
        self.plan, self.inputs = built.plan, built.inputs
        self._main = relax.VirtualMachine(tvm.runtime.load_module(str(built.library)), tvm.cpu())["main"]

    def run(self, x: Tensors) -> Any:
        """Outputs of one run: an array, or a list of them where the network has several.

        Raises
        ------
        DataError
            If an input is missing, unknown, or of another shape or dtype.
        """
        result = self._main(*[tvm.runtime.tensor(array) for array in _ordered(x, self.inputs)])
        if isinstance(result, tvm.runtime.Tensor):
            return result.numpy()
        return [tensor.numpy() for tensor in result]

    __call__ = run

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {dtype}{list(shape)}" for name, (shape, dtype) in self.inputs.items())
        return f"LoadedModel({inputs}; target {self.plan.target})"


def _ordered(x: Tensors, inputs: InputSpecs) -> list[npt.NDArray[Any]]:
    if isinstance(x, Mapping):
        if x.keys() != inputs.keys():
            raise DataError(f"arrays must be named as the inputs {list(inputs)} (got {list(x)})")
        arrays = [np.asarray(x[name]) for name in inputs]
    elif isinstance(x, np.ndarray):
        arrays = [x]
    else:
        arrays = [np.asarray(array) for array in x]
    if len(arrays) != len(inputs):
        raise DataError(f"the network takes {len(inputs)} arrays, {list(inputs)} (got {len(arrays)})")
    for array, (name, (shape, dtype)) in zip(arrays, inputs.items(), strict=True):
        if array.shape != tuple(shape) or str(array.dtype) != dtype:
            raise DataError(f"input {name!r} is {dtype}{list(shape)} (got {array.dtype}{list(array.shape)})")
    return [np.ascontiguousarray(array) for array in arrays]
