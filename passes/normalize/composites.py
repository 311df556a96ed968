"""The form in which a normalized network names its operators: a private Relax function with `mpq.*` attributes.

mpq.kind        conv2d, linear, attention, recurrent, max_pool2d, avg_pool2d, add, multiply, concat, activation, copy or
                reshape
mpq.name        readable and unique in the module
mpq.activation  text of the fused activation, `none` where there is none
mpq.workload    JSON of the schema.Workload (not for reshape)

Parameters: activations first (data, then residual or second operand), then the constants weight and bias.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq.passes.normalize.activations import build_activation
from tvm_mpq.passes.normalize.exprs import NHWC_SUFFIX, const
from tvm_mpq.schema import WORKLOAD_ATTRIBUTE, Workload

KIND, NAME, ACTIVATION, WORKLOAD = "mpq.kind", "mpq.name", "mpq.activation", WORKLOAD_ATTRIBUTE

_IMPORTER_NAME = re.compile(r"(lv|gv)\d*(_\d+)*")

Emit = Callable[[relax.Expr], relax.Expr]


@dataclass(frozen=True)
class Composite:
    """One operator to be written as a private function.

    body(params, emit) gives the value before the activation; readable: a name from the importer, or empty.
    """

    kind: str
    inputs: tuple[relax.Expr, ...]
    output: relax.Var
    body: Callable[[list[relax.Var], Emit], relax.Expr]
    constants: tuple[npt.NDArray[Any], ...] = ()
    workload: Workload | None = None
    activation: str = "none"
    readable: str = ""
    members: frozenset[relax.Var] = field(default_factory=frozenset)  # variables whose bindings this replaces


def readable_name(*variables: relax.Var) -> str:
    """The first name that the importer took from the source model, as letters, digits, `_` and `.`; or empty."""
    for var in variables:
        name = var.name.removesuffix(NHWC_SUFFIX)
        if not _IMPORTER_NAME.fullmatch(name):
            return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")
    return ""


def is_composite(function: Any) -> bool:
    return isinstance(function, relax.Function) and function.attrs is not None and KIND in function.attrs


class Names:
    """Gives every composite of a module its name."""

    def __init__(self, mod: tvm.IRModule, composites: Iterable[Composite]) -> None:
        self._taken = {str(f.attrs[NAME]) for f in mod.functions.values() if is_composite(f)}
        self._readable = {c.readable for c in composites}  # kept for those that the importer named so
        self._count: dict[str, int] = {}

    def give(self, composite: Composite) -> str:
        """The readable name, or kind_1, kind_2, ... where the importer left none; never the same twice."""
        name = composite.readable
        while not name or name in self._taken or (not composite.readable and name in self._readable):
            stem = composite.readable or composite.kind
            self._count[stem] = self._count.get(stem, 0) + 1
            name = f"{stem}_{self._count[stem]}"
        self._taken.add(name)
        return name


def global_name(name: str) -> str:
    """The name of the private function, a plain identifier."""
    return "mpq_" + re.sub(r"\W", "_", name)


def build_function(composite: Composite, inputs: list[relax.Expr], name: str) -> relax.Function:
    """The private function for operands of these types."""
    builder = relax.BlockBuilder()
    names = ["data", "other"] if len(inputs) <= 2 else [f"data_{i}" for i in range(len(inputs))]
    params = [relax.Var(n, x.ty) for n, x in zip(names, inputs, strict=False)]
    constants = ("weight", "bias")[: len(composite.constants)]
    params += [relax.Var(n, const(c).ty) for n, c in zip(constants, composite.constants, strict=True)]
    bindings: list[tuple[relax.Var, relax.Expr]] = []

    def emit(expr: relax.Expr) -> relax.Expr:
        expr = builder.normalize(expr)
        bindings.append((relax.DataflowVar(f"lv{len(bindings)}", expr.ty), expr))
        return bindings[-1][0]

    result = composite.body(params, emit)
    if composite.activation != "none":
        result = build_activation(composite.activation, result, emit)
    last, value = bindings.pop()
    assert last.same_as(result)  # what leaves a dataflow block must be a plain variable
    out = relax.Var("gv", value.ty)
    block = relax.DataflowBlock([relax.VarBinding(v, e) for v, e in [*bindings, (out, value)]])
    attrs = {KIND: composite.kind, NAME: name, ACTIVATION: composite.activation}
    if composite.workload is not None:
        attrs[WORKLOAD] = json.dumps(composite.workload.to_json())
    function = relax.Function(params, relax.SeqExpr([block], out), out.ty)
    return builder.normalize(function.with_attrs(attrs))
