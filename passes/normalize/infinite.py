"""Which tensors hold infinities by the network's own constants: an attention mask, and sums with it.

No integer stands for an infinity, so what reads or makes such a tensor stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tvm import relax

from tvm_mpq.passes.normalize.exprs import array_of, is_constant, op_name

_PASS_ON = frozenset(
    ["relax.add", "relax.astype", "relax.broadcast_to", "relax.concat", "relax.expand_dims", "relax.flatten"]
    + ["relax.full", "relax.full_like", "relax.multiply", "relax.negative", "relax.permute_dims", "relax.repeat"]
    + ["relax.reshape", "relax.split", "relax.squeeze", "relax.stack", "relax.strided_slice", "relax.subtract"]
    + ["relax.take", "relax.tile", "relax.where"]
)
"""Operators whose result holds an infinity where an operand does."""


def infinite(bindings: Iterable[tuple[relax.Var, relax.Expr]]) -> set[relax.Var]:
    """The variables, of bindings in order, to which a constant's infinities come."""
    found: set[relax.Var] = set()
    for var, value in bindings:
        if isinstance(value, relax.Call) and op_name(value) not in _PASS_ON:
            continue
        held: list[bool] = []

        def visit(expr: relax.Expr, held: list[bool] = held) -> None:
            held.append(expr in found if isinstance(expr, relax.Var) else is_constant(expr) and _has_infinity(expr))

        relax.analysis.post_order_visit(value, visit)
        if any(held):
            found.add(var)
    return found


def _has_infinity(constant: relax.Expr) -> bool:
    values = array_of(constant)
    return values.dtype.kind == "f" and bool(np.isinf(values).any())
