"""What each kernel of a built network takes: every call of `main`, timed as a function of its library.

TVM's own profilers see nothing here: compiled code calls kernels directly. The list of calls is therefore written down
when the network is built. Each call is timed alone, in a loop, on operands of zeros: a sum over all is a little less
than a run, whose weights come from further away, and whose calls have a price of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mpq import scratch
from tvm_mpq.passes.graph import Graph
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure.kernels import timing
from tvm_mpq.tuning.measure.presets import PROFILE

_EMBEDDED, _HIDDEN = b"__tvm_ffi__library_bin", b"__tvm_ffi__library_off"
"""The symbol by which TVM's loader sees that a library holds a network. Without it, it loads the functions alone, which
a remote timer finds only at the top of a module."""

_Array = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class KernelCall:
    """One call: the operator it computes, the function, shape and dtype of each argument.

    symbol: the function's name in the library, where that is another one.
    """

    operator: str
    function: str
    arrays: tuple[_Array, ...]
    symbol: str = ""

    def to_json(self) -> list[Any]:
        arrays = [[list(shape), dtype] for shape, dtype in self.arrays]
        return [self.operator, self.function, arrays, *([self.symbol] if self.symbol else [])]

    @staticmethod
    def from_json(data: Sequence[Any]) -> KernelCall:
        """Raises TypeError or ValueError for anything that `to_json` does not write."""
        operator, function, arrays, *symbols = data
        (symbol,) = symbols or [""]
        found = tuple((tuple(int(n) for n in shape), str(np.dtype(dtype))) for shape, dtype in arrays)
        return KernelCall(str(operator), str(function), found, str(symbol))


def kernel_calls(mod: tvm.IRModule, graph: Graph, symbols: Mapping[str, str]) -> tuple[KernelCall, ...]:
    """All calls of kernels in a realized module, in order, under the names that the graph gives their operators.

    symbols: function to its name in the library, where that is another one.
    """
    names = {node.name.replace(".", "_"): node.name for node in graph.nodes}  # as Relax's builder writes them
    calls = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, relax.Call) or value.op != tvm.ir.Op.get("relax.call_tir"):
                continue
            operator = str(binding.var.name)
            types = [*(a.ty for a in value.args[1].fields), *_fields(value.ty_args[0])]
            arrays = tuple((tuple(int(n) for n in ty.shape.values), str(ty.dtype)) for ty in types)
            function = str(value.args[0].name_hint)
            calls.append(KernelCall(names.get(operator, operator), function, arrays, symbols.get(function, "")))
    return tuple(calls)


def _fields(ty: Any) -> list[Any]:
    return list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]


def time_calls(session: Session, library: Path, calls: Iterable[KernelCall]) -> list[float]:
    """Microseconds of each call; equal ones (the same code on the same sizes) are timed once.

    Raises
    ------
    MeasurementError
        If the library lacks a function, or one refuses its arguments.
    DeviceLostError
        If the device dies.
    """
    calls = list(calls)
    if not calls:
        return []
    with scratch.folder() as folder:
        kernels = Path(folder) / "kernels.so"
        kernels.write_bytes(library.read_bytes().replace(_EMBEDDED, _HIDDEN))
        module = session.upload_module(kernels)
    known: dict[tuple[str, tuple[_Array, ...]], float] = {}
    found = []
    for call in calls:
        key = call.function, call.arrays
        if key not in known:
            tensors = [session.array(np.zeros(shape, dtype)) for shape, dtype in call.arrays]
            once = timing(session, module, call.symbol or call.function, tensors, PROFILE)
            known[key] = statistics.median(once() for _ in range(PROFILE.repeats))
        found.append(known[key])
    return found
