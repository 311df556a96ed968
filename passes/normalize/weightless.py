"""Operators without weights that integer data can pass: pooling, add, multiply, concat, copy, reshape.

Each function looks at one binding and gives the composite that stands for it, or None. Only float32, channels-last.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from tvm_mpq.passes.normalize.composites import Composite, Emit, readable_name
from tvm_mpq.passes.normalize.exprs import axis_list, ints, is_float, op_name, prod, shape_of
from tvm_mpq.passes.normalize.merge_copy import copy_step
from tvm_mpq.schema import AddWorkload, ConcatWorkload, CopyWorkload, MultiplyWorkload, Pool2dWorkload, padded_channels

Body = Callable[[list[relax.Var], Emit], relax.Expr]


def find_weightless(var: relax.Var, value: relax.Expr, source: relax.Expr | None) -> Composite | None:
    """The composite for a binding; source: the slice that only this binding uses, for a pad behind it."""
    if not isinstance(value, relax.Call) or not is_float(var):
        return None
    operands = [a for arg in value.args for a in (arg.fields if isinstance(arg, relax.Tuple) else [arg])]
    tensors = [a for a in operands if isinstance(a, relax.Var)]
    if not tensors or not all(is_float(t) for t in tensors):
        return None
    name = op_name(value)
    for names, find in _FINDERS:
        if name in names:
            return find(var, value, source)
    return None


def _replay(value: relax.Call) -> Body:
    """The same operator on the parameters."""

    def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
        rest = list(params)
        args = [rest.pop(0) if isinstance(a, relax.Var) else a for a in value.args]
        return emit(relax.Call(value.op, args, value.attrs, value.ty_args))

    return body


def _pool(var: relax.Var, value: relax.Call, _source: relax.Expr | None) -> Composite | None:
    attrs = value.attrs
    shape, out = shape_of(value.args[0]) or (), shape_of(var) or ()
    if str(attrs.layout) != "NHWC" or str(attrs.out_layout) not in ("", "NHWC") or ints(attrs.dilation) != (1, 1):
        return None
    n, h, w, c = shape
    kernel, stride, padding = ints(attrs.pool_size), ints(attrs.strides), ints(attrs.padding)
    reach = [(o - 1) * s + k for o, s, k in zip(out[1:3], stride, kernel, strict=True)]
    past = reach[0] > h + padding[0] + padding[2] or reach[1] > w + padding[1] + padding[3]
    maximum = op_name(value) == "relax.nn.max_pool2d"
    if maximum:
        mode = "max"
    elif attrs.count_include_pad or not (any(padding) or past):
        if past:
            return None  # TVM counts the cells that ceil_mode adds, the workload does not
        mode = "avg"
    else:
        mode = "avg_valid"
    workload = Pool2dWorkload(mode, n, h, w, c, _pair(kernel), _pair(stride), _four(padding), out[1], out[2])
    kind = "max_pool2d" if maximum else "avg_pool2d"
    return Composite(kind, (value.args[0],), var, _replay(value), workload=workload, readable=readable_name(var))


def _global_pool(var: relax.Var, value: relax.Call, _source: relax.Expr | None) -> Composite | None:
    """Mean or maximum over the whole map; adaptive pooling to a divisor of the map."""
    shape, out = shape_of(value.args[0]) or (), shape_of(var) or ()
    if len(shape) != 4 or len(out) != 4:
        return None
    if op_name(value) == "relax.nn.adaptive_avg_pool2d":
        if str(value.attrs.layout) != "NHWC" or shape[1] % out[1] or shape[2] % out[2]:
            return None
    elif not value.attrs.keepdims or sorted(axis_list(value.attrs.axis, 4)) != [1, 2]:
        return None
    n, h, w, c = shape
    window = (h // out[1], w // out[2])
    maximum = op_name(value) == "relax.max"
    pool = relax.op.nn.max_pool2d if maximum else relax.op.nn.avg_pool2d

    def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
        return emit(pool(params[0], window, window, (0, 0, 0, 0), layout="NHWC"))

    mode = "max" if maximum else "avg"
    workload = Pool2dWorkload(mode, n, h, w, c, window, window, (0, 0, 0, 0), out[1], out[2])
    kind = "max_pool2d" if maximum else "avg_pool2d"
    return Composite(kind, (value.args[0],), var, body, workload=workload, readable=readable_name(var))


def _binary(var: relax.Var, value: relax.Call, _source: relax.Expr | None) -> Composite | None:
    a, b = value.args
    if not (isinstance(a, relax.Var) and isinstance(b, relax.Var)):
        return None
    shape, other = shape_of(a) or (), shape_of(b) or ()
    if not shape or not other:
        return None
    if op_name(value) == "relax.add":
        if shape != other:
            return None
        workload: AddWorkload | MultiplyWorkload = AddWorkload(shape)
        return Composite("add", (a, b), var, _binary_body(relax.op.add), workload=workload, readable=readable_name(var))
    if shape != other and _is_gate(shape, other):
        a, b, shape, other = b, a, other, shape
    if shape != other and not _is_gate(other, shape):
        return None
    workload = MultiplyWorkload(shape, shape != other)
    body = _binary_body(relax.op.multiply)
    return Composite("multiply", (a, b), var, body, workload=workload, readable=readable_name(var))


def _binary_body(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Body:
    return lambda params, emit: emit(operator(params[0], params[1]))


def _is_gate(gate: tuple[int, ...], maps: tuple[int, ...]) -> bool:
    """[N, 1, 1, C] beside [N, H, W, C]."""
    return len(gate) == len(maps) == 4 and gate == (maps[0], 1, 1, maps[3])


def _concat(var: relax.Var, value: relax.Call, _source: relax.Expr | None) -> Composite | None:
    parts = value.args[0].fields if isinstance(value.args[0], relax.Tuple) else []
    out = shape_of(var) or ()
    if len(parts) < 2 or not all(isinstance(p, relax.Var) for p in parts) or value.attrs.axis is None:
        return None
    if len(out) < 2 or int(value.attrs.axis) % len(out) != len(out) - 1:
        return None
    workload = ConcatWorkload(prod(out[:-1]), tuple((shape_of(p) or (0,))[-1] for p in parts))
    axis = len(out) - 1
    return Composite(
        "concat",
        tuple(parts),
        var,
        lambda params, emit: emit(relax.op.concat(list(params), axis)),
        workload=workload,
        readable=readable_name(var),
    )


def _copy(var: relax.Var, value: relax.Call, source: relax.Expr | None) -> Composite | None:
    """A slice, a zero pad, or a slice and the pad behind it (MergeCopy leaves no longer chains)."""
    first = copy_step(source) if op_name(value) == "relax.nn.pad" else None
    axes = copy_step(value, first)
    if axes is None:
        return None
    x = source.args[0] if first is not None and source is not None else value.args[0]
    workload = CopyWorkload(
        shape_of(x) or (),
        shape_of(var) or (),
        *(tuple(getattr(a, field) for a in axes) for field in ("begin", "stride", "count", "pad")),
    )
    steps = [value] if first is None else [source, value]

    def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
        result: relax.Expr = params[0]
        for step in steps:
            assert step is not None
            result = emit(relax.Call(step.op, [result, *step.args[1:]], step.attrs, step.ty_args))
        return result

    members = frozenset() if first is None else frozenset({value.args[0]})
    return Composite("copy", (x,), var, body, workload=workload, readable=readable_name(var), members=members)


def _reshape(var: relax.Var, value: relax.Call, _source: relax.Expr | None) -> Composite | None:
    """A regrouping of rows that also holds when the last axis is stored padded."""
    before, after = shape_of(value.args[0]) or (), shape_of(var) or ()
    if not before or not after or not isinstance(value.args[0], relax.Var):
        return None
    flatten = (len(before), len(after)) == (4, 2) and before[0] == after[0]
    unpadded = all(shape[-1] == padded_channels(shape[-1]) for shape in (before, after))
    if before[-1] != after[-1] and not (flatten and unpadded):
        return None

    def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
        return emit(relax.op.reshape(params[0], after))

    return Composite("reshape", (value.args[0],), var, body, readable=readable_name(var))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    return values[0], values[1], values[2], values[3]


_FINDERS: tuple[tuple[frozenset[str], Callable[..., Composite | None]], ...] = (
    (frozenset({"relax.nn.max_pool2d", "relax.nn.avg_pool2d"}), _pool),
    (frozenset({"relax.nn.adaptive_avg_pool2d", "relax.mean", "relax.max"}), _global_pool),
    (frozenset({"relax.add", "relax.multiply"}), _binary),
    (frozenset({"relax.concat"}), _concat),
    (frozenset({"relax.nn.pad", "relax.strided_slice"}), _copy),
    (frozenset({"relax.reshape"}), _reshape),
)
