"""Readable, stable names: what the source model calls an operator becomes the name of its Relax variable.

An importer says which variable holds the result of which source operator (`owners`); `names_by_variable` then finds a
name for every binding and `rename` applies them. One source operator often becomes several bindings (a Gemm:
permute_dims, matmul, add): the one that holds the weights gets the operator's name, the others get it with their Relax
operator behind it (`fc`, `fc_add`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

PRINCIPAL = (
    ("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "matmul", "linear"),
    ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "attention", "take"),
    ("max_pool2d", "avg_pool2d", "concat", "split", "pad"),
)
"""Which of an operator's bindings carries its name: the first of the first row that occurs, else the last call that is
no fused activation."""

_ACTIVATIONS = frozenset({"relu", "clip", "tanh"})

_PARAMETER = re.compile(r"([._/](weights?|bias|kernel|gamma|beta|w|W|b|B|scale))$")
_TF_TAILS = frozenset(
    [
        "ReadVariableOp",
        "resource",
        "Conv2D",
        "Conv2d",
        "DepthwiseConv2dNative",
        "depthwise",
        "depthwise_kernel",
        "kernel",
        "weights",
        "weight",
        "MatMul",
        "BiasAdd",
        "bias",
        "FusedBatchNormV3",
        "Const",
    ]
)
_ANONYMOUS = re.compile(
    r"^(onnx::.*|[_vt]?_?\d+|const\w*|constant\w*|.*/Constant(_\d+)?_output_0|val_\d+|initializer\w*|"
    r"(tfl\.|arith\.)\w+|identity(_\d+)?|w|weights?|b|bias)$",
    re.IGNORECASE,
)


def safe(name: str) -> str:
    """`name` with nothing but [A-Za-z0-9_.] left; `op` when nothing is left.

    >>> safe("/layer1/conv:0")
    'layer1_conv_0'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.") or "op"


def is_anonymous(name: str) -> bool:
    """True for names that exporters make up, such as `onnx::Conv_123`, `17` or `tfl.pseudo_qconst`."""
    return not name or bool(_ANONYMOUS.match(name))


def path(name: str) -> str:
    """A path of modules as dots; a segment that repeats the one before it (torch's way) replaces it.

    >>> path("/layer1/layer1.0/conv1")
    'layer1.0.conv1'
    """
    kept: list[str] = []
    for segment in filter(None, name.split("/")):
        if kept and segment.startswith(kept[-1] + "."):
            kept.pop()
        kept.append(segment)
    return safe(".".join(kept))


def owner_of(parameter: str) -> str:
    """The operator that a weight belongs to.

    >>> owner_of("layer1.0.conv1.weight"), owner_of("model/conv2d_1/Conv2D/ReadVariableOp:0"), owner_of("fc_w")
    ('layer1.0.conv1', 'model.conv2d_1', 'fc')
    """
    name = re.sub(r":\d+$", "", parameter)
    segments = name.split("/")
    while len(segments) > 1 and segments[-1] in _TF_TAILS:
        segments.pop()
    name = "/".join(segments)
    shorter = re.sub(r"_(weights?|bias|kernel|w|b)$", "", _PARAMETER.sub("", name), flags=re.IGNORECASE)
    return path(shorter or name)


class UniqueNames:
    """Hands out each name once: `fc`, `fc_1`, `fc_2`."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def unique(self, wanted: str) -> str:
        name, n = wanted, 1
        while name in self._taken:
            name, n = f"{wanted}_{n}", n + 1
        self._taken.add(name)
        return name


def operator_of(value: relax.Expr) -> str:
    """`conv2d` for `relax.nn.conv2d(...)`, the PrimFunc's name for a call_tir, "" for what is not a call."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return ""
    if value.op.name == "relax.call_tir":
        return str(value.args[0].name_hint)
    return str(value.op.name).rsplit(".", 1)[-1]


def names_by_variable(main: relax.Function, owners: dict[str, str]) -> dict[str, str]:
    """The new name of each variable that a source operator made.

    Parameters
    ----------
    main : relax.Function
        As imported, nothing removed yet; all variable names in it are different.
    owners : dict
        Name of the variable that holds an operator's (last) result -> what the source model calls the operator.
        Bindings before it, back to the one of the operator before, belong to the same operator.
    """
    names = UniqueNames()
    new: dict[str, str] = {}
    group: list[relax.VarBinding] = []
    for binding in bindings(main):
        if isinstance(binding.value, relax.Var):  # an alias; tidying leaves one of the two variables
            source = str(binding.value.name)
            if source in new:
                new[str(binding.var.name)] = new[source]
            continue
        if _is_field(binding) and not group and str(binding.value.tuple_value.name) in new:
            # A field taken after its operator was complete.
            name = f"{new[str(binding.value.tuple_value.name)]}_{binding.value.index}"
            new[str(binding.var.name)] = names.unique(name)
            continue
        group.append(binding)
        owner = owners.get(str(binding.var.name))
        if owner is not None:
            new.update(_name_group(group, safe(owner), names))
            group = []
    return new


def new_names(main: relax.Function, variables: dict[str, str], input_names: Sequence[str]) -> dict[str, str]:
    """Old name -> new one: parameters are called `input_names` (valid and different), variables as given.

    Variables without an entry keep their name, made valid and unique.
    """
    names = UniqueNames(input_names)
    new = {str(p.name): n for p, n in zip(main.params, input_names, strict=True)}
    for binding in bindings(main):
        old = str(binding.var.name)
        new[old] = names.unique(variables.get(old) or safe(old))
    return new


def rename(mod: tvm.IRModule, new: dict[str, str]) -> tvm.IRModule:
    """A module whose `main` has its parameters and variables called as `new` says."""
    out = tvm.IRModule(mod.functions, attrs=mod.attrs)
    out.update_func(mod.get_global_var("main"), _Renamer(new).visit_expr(mod["main"]))
    return out


def bindings(main: relax.Function) -> Iterator[relax.VarBinding]:
    """All bindings of a function in order."""
    for block in main.body.blocks:
        yield from block.bindings


def _name_group(group: list[relax.VarBinding], owner: str, names: UniqueNames) -> dict[str, str]:
    operators = [operator_of(b.value) for b in group]
    calls = [i for i, op in enumerate(operators) if op]
    fused = len(calls) == 2 and operators[calls[1]] in _ACTIVATIONS
    principal = (calls[0] if fused else calls[-1]) if calls else len(group) - 1
    for row in PRINCIPAL:
        found = [i for i, op in enumerate(operators) if op in row]
        if found:
            principal = found[0]
            break
    new = {str(group[principal].var.name): names.unique(owner)}
    for i, binding in enumerate(group):
        if i != principal:
            suffix = operators[i] or (binding.value.index if _is_field(binding) else "value")
            new[str(binding.var.name)] = names.unique(f"{owner}_{suffix}")
    return new


def _is_field(binding: relax.VarBinding) -> bool:
    return isinstance(binding.value, relax.TupleGetItem)


@mutator
class _Renamer(PyExprMutator):
    """A variable's name is fixed when it is made, and BlockBuilder.emit turns dots into underscores: make new ones."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self._names = names

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        return self._renamed(var, relax.DataflowVar)

    def visit_var_def_(self, var: relax.Var) -> relax.Var:
        return self._renamed(var, relax.Var)

    def _renamed(self, var: relax.Var, make: type[relax.Var]) -> relax.Var:
        new = make(self._names.get(str(var.name), str(var.name)), var.ty)
        self.set_var_remap(var, new)
        return new
