"""Attention as importers write it, found as one operator on the tensors that queries, keys and values lie in.

    reshape, transpose, slice -> q, k, v
    matmul(softmax(scale * matmul(q, transpose(k))), v) -> transpose -> reshape

The scale may stand on either operand or behind the product, and batch and head may be one axis around the products. Not
found: attention with a mask, scores that somebody else reads too, and operands that are no strided views. Where heads
are joined behind it, it becomes an `attention` composite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import relax

from tvm_mpq.kernels import Request, fitting
from tvm_mpq.passes.normalize.composites import Composite, Emit, readable_name
from tvm_mpq.passes.normalize.exprs import axis_list, dtype_of, number, op_name, shape_of
from tvm_mpq.passes.normalize.rewrite import OUTPUT, Rewriter
from tvm_mpq.passes.normalize.views import View, view_of
from tvm_mpq.schema import FLOAT_BITS, FP32, AttentionWorkload


@dataclass(frozen=True)
class FoundAttention:
    """One attention. product: with the values; end: that, or its transposition to [batch, row, head, feature]."""

    workload: AttentionWorkload
    sources: tuple[relax.Var, ...]
    product: relax.Var
    end: relax.Var
    transposed: bool


def find_attention(network: Rewriter, var: relax.Var, value: relax.Expr) -> FoundAttention | None:
    """The attention whose product with the values is this binding; None where there is none, or no float kernel."""
    return _Finder(network).find(var, value)


def attention_composite(network: Rewriter, found: FoundAttention) -> Composite | None:
    """With what joins the heads behind it; None where nothing does.

    What only attention reads of what cuts q, k and v goes with it.
    """
    w, end = found.workload, found.end
    if not found.transposed and w.heads > 1:
        if w.batch > 1 or len(shape_of(end) or ()) != 3:
            return None
        w = _heads_as_batches(w)
    channels = w.heads * w.value_features
    user = network.only_use(end)
    if user is not None:
        var, value = network.bindings[user]
        if op_name(value) == "relax.reshape" and (shape_of(var) or (0,))[-1] == channels:
            end = var
    if (shape_of(end) or (0,))[-1] != channels:
        return None
    cone = _cone(network, end, found.sources)

    def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
        new: dict[relax.Expr, relax.Expr] = dict(zip(found.sources, params, strict=True))
        for var, value in cone:
            args = [new.get(a, a) if isinstance(a, relax.Var) else a for a in value.args]
            new[var] = emit(relax.Call(value.op, args, value.attrs, value.ty_args))
        return new[end]

    members = _only_within(network, [var for var, _ in reversed(cone)], end)
    module, dot, _ = readable_name(found.product).rpartition(".")  # the product's own name would be some matmul_1
    readable = f"{module}.attention" if dot else ""
    return Composite("attention", found.sources, end, body, (), w, readable=readable, members=members)


def _heads_as_batches(w: AttentionWorkload) -> AttentionWorkload:
    """Three axes, the first of which nothing joins with the last."""
    q, k, v = ((s, o, head, 0, row, feature) for s, o, _, head, row, feature in (w.q, w.k, w.v))
    return replace(w, batch=w.heads, heads=1, q=q, k=k, v=v)


def _cone(network: Rewriter, end: relax.Var, sources: tuple[relax.Var, ...]) -> list[tuple[relax.Var, relax.Expr]]:
    """The bindings between sources and end, in order."""
    wanted, found = {end}, []
    for i in range(network.index[end], -1, -1):
        var, value = network.bindings[i]
        if var in wanted and var not in sources:
            found.append((var, value))
            wanted.update(a for a in value.args if isinstance(a, relax.Var))
    return found[::-1]


def _only_within(network: Rewriter, names: list[relax.Var], end: relax.Var) -> frozenset[relax.Var]:
    """Those of the variables, given last first, that nothing outside reads."""
    within = {end}
    for var in names:
        uses = network.uses.get(var, [])
        if all(i != OUTPUT and network.bindings[i][0] in within for i in uses):
            within.add(var)
    return frozenset(within)


class _Finder:
    def __init__(self, network: Rewriter) -> None:
        self._network = network

    def find(self, var: relax.Var, value: relax.Expr) -> FoundAttention | None:
        if op_name(value) != "relax.matmul" or dtype_of(var) != "float32":
            return None
        weights = self._inner(value.args[0])
        if op_name(weights) != "relax.nn.softmax" or weights is None:
            return None
        rank = len(shape_of(weights) or ())
        if int(weights.attrs.axis) % rank != rank - 1:
            return None
        scores, scale = self._scaled(weights.args[0], alone=True)
        product = self._inner(scores)
        if op_name(product) != "relax.matmul" or product is None:
            return None
        operands = (*product.args, value.args[1])
        if len({len(shape_of(x) or ()) for x in (*operands, var)}) != 1:
            return None
        apart = [self._axes_apart(x) for x in operands]
        split = all(len(shape_of(x) or ()) == 4 for x, _ in apart)
        found = [self._scaled_view(x, scale) for x, scale in (apart if split else [(x, 1.0) for x in operands])]
        views = [view for view, _ in found]
        q, k, v = views
        scale *= found[0][1] * found[1][1]
        if q is None or k is None or v is None or scale <= 0 or found[2][1] != 1:
            return None
        return self._checked(var, q, k.permuted((0, 1, 3, 2)), v, scale)

    def _value(self, expr: relax.Expr) -> relax.Expr | None:
        return self._network.value.get(expr) if isinstance(expr, relax.Var) else None

    def _inner(self, expr: relax.Expr) -> relax.Expr | None:
        """The value of a variable that nobody else reads, behind changes of its outer axes."""
        value = self._value(expr)
        if value is None or self._network.only_use(expr) is None:
            return None
        return self._inner(value.args[0]) if _regroups(value) else value

    def _axes_apart(self, expr: relax.Expr) -> tuple[relax.Expr, float]:
        """[batch, head, row, column] where it was joined to [batch * head, row, column], and what multiplies it."""
        inner, factor = self._scaled(expr)
        value = self._value(inner)
        joined = _regroups(value) and value is not None and len(shape_of(value.args[0]) or ()) == 4
        return (value.args[0], factor) if joined and value is not None else (expr, 1.0)

    def _factor(self, expr: relax.Expr) -> tuple[relax.Expr, float] | None:
        """x and f where expr = f * x; None where it is no such product."""
        value = self._value(expr)
        if value is None or op_name(value) not in ("relax.multiply", "relax.divide"):
            return None
        x, factor = value.args[0], number(value.args[1])
        if factor is None and op_name(value) == "relax.multiply":
            x, factor = value.args[1], number(value.args[0])
        if not factor or shape_of(x) != shape_of(expr):
            return None
        return x, factor if op_name(value) == "relax.multiply" else 1.0 / factor

    def _scaled(self, expr: relax.Expr, *, alone: bool = False) -> tuple[relax.Expr, float]:
        """expr = factor * what is returned first; alone: behind changes of outer axes, of what nobody else reads."""
        found = self._factor(expr)
        if alone and isinstance(expr, relax.Var) and self._network.only_use(expr) is None:
            return expr, 1.0
        if found is not None:
            inner, more = self._scaled(found[0], alone=alone)
            return inner, more * found[1]
        value = self._value(expr)
        if alone and value is not None and _regroups(value):
            return self._scaled(value.args[0], alone=True)
        return expr, 1.0

    def _scaled_view(self, expr: relax.Expr, scale: float) -> tuple[View | None, float]:
        """As [batch, head, row, feature], three axes with one batch; and `scale` times all factors on the way."""

        def definition(var: relax.Var) -> relax.Expr | None:
            nonlocal scale
            inner, factor = self._scaled(var)
            scale *= factor
            return self._value(inner)

        view = view_of(expr, definition)
        if view is None or len(view.shape) not in (3, 4) or dtype_of(view.root) != "float32":
            return None, 1.0
        root, _ = self._scaled(view.root)  # its factor is in `scale` already
        if not isinstance(root, relax.Var):
            return None, 1.0
        if len(view.shape) == 3:
            return View(root, view.offset, (1, *view.shape), (0, *view.strides)), scale
        return View(root, view.offset, view.shape, view.strides), scale

    def _checked(self, var: relax.Var, q: View, k: View, v: View, scale: float) -> FoundAttention | None:
        batch, heads, queries, features = q.shape
        keys, outputs = v.shape[2:]
        if k.shape != (batch, heads, keys, features) or v.shape[:2] != (batch, heads):
            return None  # operands that are broadcast
        sources = tuple(dict.fromkeys(view.root for view in (q, k, v)))
        shapes = tuple(shape_of(source) or () for source in sources)
        places = [(sources.index(x.root), x.offset, *x.strides) for x in (q, k, v)]
        workload = AttentionWorkload(batch, heads, queries, keys, features, outputs, scale, shapes, *places)
        if not fitting(Request(workload, FP32, FLOAT_BITS, frozenset())):
            return None
        end, shape = var, (batch, heads, queries, outputs)
        user = self._network.only_use(end)
        if user is not None:
            split, value = self._network.bindings[user]
            if op_name(value) == "relax.reshape" and shape_of(split) == shape:
                end, user = split, self._network.only_use(split)
        if user is not None:
            turned, value = self._network.bindings[user]
            rank = len(shape_of(end) or ())
            swap = (0, 2, 1, 3) if rank == 4 else (1, 0, 2)
            permutes = op_name(value) == "relax.permute_dims" and value.attrs.axes is not None
            if permutes and (rank == 4 or batch == 1) and axis_list(value.attrs.axes, rank) == swap:
                return FoundAttention(workload, sources, var, turned, True)
        return FoundAttention(workload, sources, var, end, False)


def _regroups(value: relax.Expr | None) -> bool:
    """Whether a reshape leaves the last two axes as they are."""
    if value is None or op_name(value) != "relax.reshape":
        return False
    before, after = shape_of(value.args[0]) or (), shape_of(value) or ()
    return len(before) >= 2 and before[-2:] == after[-2:]
