"""Relax operators that stay float, in PyTorch, for any batch in axis 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import tvm
from torch import Tensor
from torch.nn import functional
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.passes.graph import Graph, Node

RelaxRule = Callable[[relax.Call, list[Any]], Any]
"""call: for its attributes and types; arguments: tensors, tuples of these, numbers, shapes as tuples of int."""


class FloatOperator:
    """One float binding. Raises UnsupportedModelError when it holds an operator that is not covered."""

    def __init__(self, graph: Graph, node: Node) -> None:
        assert node.binding is not None, "a float node has its binding"
        self._names, self._value = graph.var_names, node.binding.value
        _check(self._value, node.name)

    def __call__(self, held: Mapping[str, Any]) -> Any:
        """The binding's result; held: tensor name -> float values."""
        return self._evaluate(self._value, held)

    def _evaluate(self, expr: Any, held: Mapping[str, Any]) -> Any:
        if isinstance(expr, relax.Var):
            return held[self._names[expr]]
        if isinstance(expr, relax.Tuple):
            return tuple(self._evaluate(field, held) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._evaluate(expr.tuple_value, held)[expr.index]
        if isinstance(expr, relax.ShapeExpr):
            return tuple(int(d) for d in expr.values)
        if isinstance(expr, relax.Call):
            arguments = [self._evaluate(a, held) for a in expr.args]
            return OPERATORS[expr.op.name](expr, arguments)
        number = _number(expr)
        return torch.from_numpy(expr.value.numpy().copy()) if number is None else number


def _number(expr: Any) -> float | int | None:
    """A bare number among the arguments, or None."""
    if isinstance(expr, (tvm.tirx.IntImm, tvm.tirx.FloatImm)):
        value: float | int = expr.value
        return value
    return None


def _check(expr: Any, name: str) -> None:
    if isinstance(expr, relax.Call):
        known = isinstance(expr.op, tvm.ir.Op) and expr.op.name in OPERATORS
        if not known or _moves_batch(expr):
            what = expr.op.name if isinstance(expr.op, tvm.ir.Op) else str(expr.op)
            why = "mixes or moves the batch axis" if known else "has no form in PyTorch here"
            allowed = ", ".join(sorted(op.removeprefix("relax.") for op in OPERATORS))
            raise UnsupportedModelError(
                f"float operator {name!r} ({what}) {why}, so that the network cannot be trained; covered within a "
                f"sample: {allowed}"
            )
    for part in _parts(expr):
        _check(part, name)


def _parts(expr: Any) -> list[Any]:
    if isinstance(expr, relax.Call):
        return list(expr.args)
    if isinstance(expr, relax.Tuple):
        return list(expr.fields)
    return [expr.tuple_value] if isinstance(expr, relax.TupleGetItem) else []


def _moves_batch(call: relax.Call) -> bool:
    """Whether it works along axis 0, or puts it elsewhere."""
    attrs, kind = call.attrs, call.op.name.removeprefix("relax.")
    if kind == "strided_slice":
        return any(int(d) == 0 for d in call.args[1].fields)
    if kind == "take" and isinstance(call.args[0], relax.Constant):  # a table of embeddings
        return False
    if kind not in _ALONG:
        return False
    rank = len(_shape(_first(call)))
    axes = _axes(attrs, rank)
    if kind == "permute_dims":
        return axes[0] != 0
    return not axes or 0 in axes


def _first(call: relax.Call) -> relax.Expr:
    value = call.args[0]
    return value.fields[0] if isinstance(value, relax.Tuple) else value


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape.values)


def _axes(attrs: Any, rank: int) -> list[int]:
    """The attribute `axis` or `axes` as numbers from 0; empty: not given, which means all."""
    given = next((getattr(attrs, name) for name in ("axes", "axis") if hasattr(attrs, name)), None)
    if given is None:
        return []
    many = [given] if isinstance(given, int) else list(given)
    return [int(a) % rank for a in many]


_ALONG = frozenset(
    {"permute_dims", "mean", "sum", "max", "min", "variance", "concat", "split", "nn.softmax", "nn.log_softmax", "take"}
)
"""Operators with an axis that must not be the batch."""


def _plain(function: Callable[..., Tensor]) -> RelaxRule:
    return lambda call, arguments: function(*arguments)


def _both(function: Callable[[Tensor, Tensor], Tensor]) -> RelaxRule:
    """Of two tensors, constants among them."""
    return lambda call, a: function(torch.as_tensor(a[0]), torch.as_tensor(a[1]))


def _reduction(function: Callable[..., Tensor]) -> RelaxRule:
    def run(call: relax.Call, arguments: list[Any]) -> Tensor:
        (x,) = arguments
        return function(x, dim=_axes(call.attrs, x.ndim), keepdim=bool(call.attrs.keepdims))

    return run


def _along(function: Callable[..., Any]) -> RelaxRule:
    return lambda call, a: function(a[0], dim=int(call.attrs.axis))


def _batched(call: relax.Call, arguments: list[Any]) -> Tensor:
    """The result's shape as the type has it, with as many rows in axis 0 as there are."""
    return arguments[0].reshape(-1, *_shape(call)[1:])


def _permute(call: relax.Call, arguments: list[Any]) -> Tensor:
    result: Tensor = arguments[0].permute(*_axes(call.attrs, arguments[0].ndim))
    return result


def _concat(call: relax.Call, arguments: list[Any]) -> Tensor:
    parts = arguments[0]
    rows = max(len(p) for p in parts)  # a constant, such as a class token, stands once in the model
    return torch.cat([p if len(p) == rows else p.expand(rows, *p.shape[1:]) for p in parts], dim=int(call.attrs.axis))


def _split(call: relax.Call, arguments: list[Any]) -> tuple[Tensor, ...]:
    sections, axis = call.attrs.indices_or_sections, int(call.attrs.axis)
    where = int(sections) if isinstance(sections, (int, tvm.tirx.IntImm)) else [int(i) for i in sections]
    return tuple(torch.tensor_split(arguments[0], where, dim=axis))


def _slice(call: relax.Call, arguments: list[Any]) -> Tensor:
    x, axes, begins, ends, *rest = arguments
    strides = rest[0] if rest else (1,) * len(axes)
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        chosen = range(*slice(begin, end, stride).indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(chosen))
    result: Tensor = x
    return result


def _broadcast(call: relax.Call, arguments: list[Any]) -> Tensor:
    x, shape = arguments
    return x if x.ndim == len(shape) and tuple(x.shape[1:]) == shape[1:] else x.expand(-1, *shape[1:])


def _layer_norm(call: relax.Call, arguments: list[Any]) -> Tensor:
    x, gamma, beta = arguments
    axes = _axes(call.attrs, x.ndim)
    mean = x.mean(dim=axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=axes, keepdim=True)
    return (x - mean) / torch.sqrt(variance + call.attrs.epsilon) * gamma + beta


def _take(call: relax.Call, arguments: list[Any]) -> Tensor:
    x, indices = arguments
    axis = int(call.attrs.axis)
    picked = x.index_select(axis, indices.reshape(-1).long())
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _variance(x: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    return x.var(dim=dim, keepdim=keepdim, correction=0)


def _leaky(call: relax.Call, arguments: list[Any]) -> Tensor:
    return functional.leaky_relu(arguments[0], float(call.attrs.alpha))


def _astype(call: relax.Call, arguments: list[Any]) -> Tensor:
    kinds = {"float32": torch.float32, "float64": torch.float64, "int32": torch.int32, "int64": torch.int64}
    result: Tensor = arguments[0].to(kinds[str(call.attrs.dtype)])
    return result


OPERATORS: Mapping[str, RelaxRule] = {
    f"relax.{name}": run
    for name, run in {
        **{n: _both(getattr(torch, n)) for n in ("add", "subtract", "multiply", "divide", "maximum", "minimum")},
        "power": _both(torch.pow),
        "matmul": _both(torch.matmul),
        **{n: _plain(getattr(torch, n)) for n in ("exp", "log", "sqrt", "rsqrt", "square", "abs", "negative")},
        **{n: _plain(getattr(torch, n)) for n in ("sigmoid", "tanh", "erf", "sin", "cos", "clip")},
        "nn.relu": _plain(functional.relu),
        "nn.relu6": _plain(functional.relu6),
        "nn.gelu": _plain(functional.gelu),
        "nn.gelu_tanh": lambda call, a: functional.gelu(a[0], approximate="tanh"),
        "nn.silu": _plain(functional.silu),
        "nn.leakyrelu": _leaky,
        "nn.softmax": _along(torch.softmax),
        "nn.log_softmax": _along(torch.log_softmax),
        "nn.layer_norm": _layer_norm,
        "mean": _reduction(torch.mean),
        "sum": _reduction(torch.sum),
        "max": _reduction(torch.amax),
        "min": _reduction(torch.amin),
        "variance": _reduction(_variance),
        "permute_dims": _permute,
        **dict.fromkeys(("reshape", "flatten", "nn.batch_flatten", "squeeze", "expand_dims"), _batched),
        "concat": _concat,
        "split": _split,
        "strided_slice": _slice,
        "broadcast_to": _broadcast,
        "take": _take,
        "astype": _astype,
    }.items()
}
"""By the operator's name. Where a shape is given, its axis 0 is as long as the batch makes it."""
