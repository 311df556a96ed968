"""Largest and smallest elements of float tensors, as Relax's `max` and `min` mean them.

TVM's own code begins at the last finite number, so that the largest of elements that are all -infinity (the row of a
mask that hides everything) comes out finite. Here it begins at the infinity.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, te, tirx

from tvm_mpq.passes.normalize.exprs import axis_list, dtype_of, shape_of

Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def _register(combine: Callable[..., Any], begin: Callable[..., Any]) -> None:
    """Make schedules split such a reduction as they split TVM's own.

    TVM's list of reductions ends after Python does: it is given references to these functions that Python never drops.
    """
    functions = [tvm_ffi.convert(f) for f in (combine, begin)]
    for function in functions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(function))
    tvm.get_global_func("s_tir.schedule.RegisterReducer")(1, *functions)


def _legalize(pick: Callable[[Any, Any], Any], start: float, name: str) -> Legalize:
    _register(lambda a, b: [pick(a[0], b[0])], lambda values: [tirx.const(start, values[0].ty.dtype)])

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        (data,) = call.args
        shape = shape_of(data)
        if shape is None or not dtype_of(data).startswith("float"):
            return tvm.ir.Op.get(f"relax.{name}").get_attr("FLegalize")(builder, call)
        axes = axis_list(call.attrs.axis, len(shape))
        reducer = te.comm_reducer(pick, lambda dtype: tirx.const(start, dtype), name)

        def reduced(x: te.Tensor) -> te.Tensor:
            over = {a: te.reduce_axis((0, shape[a]), f"k{a}") for a in axes}
            keep = bool(call.attrs.keepdims)

            def element(*place: Any) -> Any:
                free = iter(p for i, p in enumerate(place) if not (keep and i in axes))
                return reducer(
                    x(*(over[a] if a in over else next(free) for a in range(len(shape)))), axis=[*over.values()]
                )

            result = [1 if a in axes else n for a, n in enumerate(shape) if keep or a not in axes]
            return te.compute(result, element, name=name)

        return builder.call_te(reduced, data, primfunc_name_hint=name)

    return legalize


EXTREMES: dict[str, Legalize] = {
    "relax.max": _legalize(lambda a, b: tirx.max(a, b), -math.inf, "max"),
    "relax.min": _legalize(lambda a, b: tirx.min(a, b), math.inf, "min"),
}
"""For LegalizeOps: how these operators become loop nests."""
