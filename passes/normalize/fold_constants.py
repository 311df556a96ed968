"""Operators on constants alone are computed here, in NumPy: `permute_dims(const) -> const` and the like.

TVM's own FoldConstant compiles a function per operator; a network's weights pass through dozens of reshapes and
transposes, so that costs seconds to minutes. Leaves operators outside the table, and dtypes other than the table
says, to TVM's pass. May stand anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.numerics.arrays import Array
from tvm_mpq.passes.normalize.exprs import (
    array_of,
    axis_list,
    const,
    dtype_of,
    is_constant,
    op_name,
    shape_of,
    slice_of,
)
from tvm_mpq.passes.normalize.rewrite import Rewriter


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FoldConstants")
class FoldConstants:
    """Compute operators whose operands are all constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


class _Rewriter(Rewriter):
    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return fold(value, var)


def fold(value: relax.Expr, var: relax.Var) -> relax.Expr:
    """The constant that `value`, bound to `var`, computes; `value` itself when it is not constant or not known here."""
    function = _TABLE.get(op_name(value))
    shape = shape_of(var)
    if function is None or shape is None:
        return value
    arrays: list[Any] = []
    for arg in value.args:
        fields = list(arg.fields) if isinstance(arg, relax.Tuple) else [arg]
        if any(isinstance(f, relax.Call | relax.Var | relax.TupleGetItem) for f in fields):
            return value
        if all(is_constant(f) for f in fields):
            arrays.append([array_of(f) for f in fields] if isinstance(arg, relax.Tuple) else array_of(arg))
    with np.errstate(all="ignore"):  # the network's own infinities are the network's business
        result = function(value, arrays, shape)
    if result is None or result.shape != shape:
        return value
    return const(result.astype(dtype_of(var), copy=False))


def _ufunc(f: Callable[..., Any]) -> Callable[[relax.Call, list[Any], tuple[int, ...]], Array | None]:
    return lambda call, a, shape: np.asarray(f(*a))


def _float_ufunc(f: Callable[..., Any]) -> Callable[[relax.Call, list[Any], tuple[int, ...]], Array | None]:
    """For functions that mean something else on integers."""
    return lambda call, a, shape: np.asarray(f(*a)) if all(x.dtype.kind == "f" for x in a) else None


def _reshape(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    return np.asarray(a[0]).reshape(shape)


def _permute(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    axes = call.attrs.axes
    return np.transpose(a[0], None if axes is None else axis_list(axes, a[0].ndim))


def _concat(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    return np.concatenate(a[0], axis=None if call.attrs.axis is None else int(call.attrs.axis))


def _slice(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    taken = slice_of(call)
    if taken is None:
        return None
    return np.asarray(a[0][tuple(slice(b, b + s * n, s) for b, s, n in taken)])


def _take(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    if len(a) != 2 or call.attrs.axis is None or not ((a[1] >= 0) & (a[1] < a[0].shape[int(call.attrs.axis)])).all():
        return None
    return np.asarray(np.take(a[0], a[1], axis=int(call.attrs.axis)))


def _filled(value: float) -> Callable[[relax.Call, list[Any], tuple[int, ...]], Array | None]:
    return lambda call, a, shape: np.full(shape, value)


def _full(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    return np.full(shape, a[-1]) if a and a[-1].size == 1 else None


def _dequantize(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    if len(a) != 3 or dtype_of(call.args[1]) != "float32":
        return None
    axis = int(call.attrs.axis) % max(1, len(shape))
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    scale, zero = (v.reshape(along) if v.ndim == 1 else v for v in a[1:])
    return np.asarray((a[0].astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale)


def _astype(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    return np.asarray(a[0])


def _power(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    return np.asarray(np.power(a[0], a[1])) if a[0].dtype.kind == "f" else None


def _expand(call: relax.Call, a: list[Any], shape: tuple[int, ...]) -> Array | None:
    return np.broadcast_to(a[0], shape)


_TABLE: dict[str, Callable[[relax.Call, list[Any], tuple[int, ...]], Array | None]] = {
    "relax.reshape": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
    "relax.permute_dims": _permute,
    "relax.broadcast_to": _expand,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.take": _take,
    "relax.astype": _astype,
    "relax.zeros": _filled(0.0),
    "relax.ones": _filled(1.0),
    "relax.full": _full,
    "relax.dequantize": _dequantize,
    "relax.where": _ufunc(np.where),
    "relax.isnan": _ufunc(np.isnan),
    "relax.add": _ufunc(np.add),
    "relax.subtract": _ufunc(np.subtract),
    "relax.multiply": _ufunc(np.multiply),
    "relax.maximum": _ufunc(np.maximum),
    "relax.minimum": _ufunc(np.minimum),
    "relax.negative": _ufunc(np.negative),
    "relax.abs": _ufunc(np.abs),
    "relax.divide": _float_ufunc(np.divide),
    "relax.sqrt": _float_ufunc(np.sqrt),
    "relax.rsqrt": _float_ufunc(lambda x: 1 / np.sqrt(x)),
    "relax.exp": _float_ufunc(np.exp),
    "relax.power": _power,
}


def constant_calls_left(mod: tvm.IRModule) -> bool:
    """True when main still computes something from constants alone (which TVM's FoldConstant may know)."""
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if op_name(value) and value.args and all(_all_constant(a) for a in value.args):
                return True
    return False


def _all_constant(expr: relax.Expr) -> bool:
    return all(_all_constant(f) for f in expr.fields) if isinstance(expr, relax.Tuple) else is_constant(expr)
