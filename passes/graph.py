"""A normalized and annotated Relax module read as a graph of named nodes and tensors. Nothing is rewritten here.

Selection, calibration and Realize all see the network through this view: nodes are the composite calls that Normalize
made (`mpq.kind`), everything else is a `float` node that keeps its Relax binding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.schema import AttentionWorkload, Conv2dWorkload, ConvertWorkload, Precision, RecurrentWorkload, Workload

TIED_KINDS = frozenset({"max_pool2d", "copy", "reshape"})
"""Kinds whose output holds values of their input, so that both share one TensorQuant."""

WEIGHTED_KINDS = frozenset({"conv2d", "linear"})

QUANTIZABLE_KINDS = WEIGHTED_KINDS | {"attention", "recurrent"}
"""Kinds for which a plan names a precision. Attention multiplies activations: its weight bits are activation bits.
Recurrent layers read and write floats at any precision; it is that of R, and of the states that R is multiplied by."""

FLOAT_KINDS = frozenset({"float", "recurrent"})
"""Kinds that read and write float32 tensors only. (A layout change of an input writes integers as well.)"""

_CHANNELS_LAST = frozenset({(0, 2, 1), (0, 2, 3, 1)})


@dataclass(frozen=True)
class GraphTensor:
    """One activation tensor; shape is logical and channels-last, except for network inputs as the user gives them."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Node:
    """One operator.

    kind: conv2d, linear, attention, recurrent, layout, a weightless operator (pool, add, ...), reshape, or float.
    `layout` is the permutation of a network input from NCHW to NHWC, or from NCW to NWC. weight is
    float32[O, KH, KW, I / groups]; a recurrent layer's is R, and bias its vectors, as its workload says. candidates:
    precision texts, set by Annotate on quantizable nodes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    workload: Workload | None = None
    weight: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None
    candidates: tuple[str, ...] = ()
    binding: relax.VarBinding | None = field(default=None, compare=False)

    @property
    def conv(self) -> Conv2dWorkload:
        """The convolution workload of a weighted node."""
        assert isinstance(self.workload, Conv2dWorkload)
        return self.workload

    @property
    def exact_inputs(self) -> int:
        """How many inputs a quantizable node reads at just the bits of its precision: residuals come at any."""
        return 1 if self.kind in WEIGHTED_KINDS else len(self.inputs)

    @property
    def quantizable(self) -> Conv2dWorkload | AttentionWorkload | RecurrentWorkload:
        """The workload of a quantizable node."""
        assert isinstance(self.workload, Conv2dWorkload | AttentionWorkload | RecurrentWorkload)
        return self.workload

    @property
    def state(self) -> str:
        """Under which name plans hold the range of a recurrent layer's h."""
        return f"{self.name}:state"


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order. outputs are tensor names; is_tuple tells whether main returns a tuple.

    loop_nests: PrimFuncs that float nodes call, as importers write operators for which Relax has none.
    """

    nodes: tuple[Node, ...]
    tensors: dict[str, GraphTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_tuple: bool
    params: tuple[relax.Var, ...] = field(compare=False)
    var_names: dict[relax.Var, str] = field(compare=False)
    loop_nests: dict[tvm.ir.GlobalVar, tvm.tirx.PrimFunc] = field(default_factory=dict, compare=False)

    def weighted(self) -> Iterator[Node]:
        return (n for n in self.nodes if n.kind in WEIGHTED_KINDS)

    def quantizable(self) -> Iterator[Node]:
        """Nodes for which a plan names a precision: those with weights, attention and recurrent layers."""
        return (n for n in self.nodes if n.kind in QUANTIZABLE_KINDS)

    @cached_property
    def activation_bits(self) -> tuple[int, ...]:
        """Bits in which integer candidates read their input, most first."""
        offered = {Precision.parse(text) for node in self.quantizable() for text in node.candidates}
        return tuple(sorted({p.activation_bits for p in offered if not p.is_float}, reverse=True))

    def states(self) -> list[Node]:
        """Recurrent layers whose products may be of integers: those that need a range of h."""
        layers = (n for n in self.nodes if n.kind == "recurrent")
        return [n for n in layers if any(not Precision.parse(text).is_float for text in n.candidates)]

    def producer(self, tensor: str) -> Node | None:
        """None for a network input."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[Node]:
        return [n for n in self.nodes if tensor in n.inputs]

    @cached_property
    def _producers(self) -> dict[str, Node]:
        return {n.output: n for n in self.nodes}

    def quant_root(self, tensor: str) -> str:
        """The tensor whose TensorQuant this one shares (itself, unless max pooling, copy or reshape made it)."""
        node = self.producer(tensor)
        while node is not None and node.kind in TIED_KINDS:
            tensor = node.inputs[0]
            node = self.producer(tensor)
        return tensor

    def integer_tensors(self) -> list[str]:
        """Tensors that an integer kernel could read or write: those that need an activation range."""
        names: dict[str, None] = {}
        for node in self.nodes:
            if node.kind in FLOAT_KINDS or node.kind == "layout":
                continue
            for name in (*node.inputs, node.output):
                names.setdefault(self.quant_root(name))
        return list(names)


def read_graph(mod: tvm.IRModule) -> Graph:
    """Read `main` of a normalized module.

    Raises
    ------
    UnsupportedModelError
        If main is missing, has control flow, or a tensor has no static shape.
    """
    main = _main(mod)
    names = _Names()
    tensors: dict[str, GraphTensor] = {}
    var_names: dict[relax.Var, str] = {}

    def add_tensor(var: relax.Var, wanted: str) -> str:
        name = names.unique(wanted)
        var_names[var] = name
        shape, dtype = _static_type(var, name)
        tensors[name] = GraphTensor(name, shape, dtype)
        return name

    inputs = tuple(add_tensor(p, p.name) for p in main.params)
    nodes: list[Node] = []
    returned: list[relax.Var] = []
    for block in main.body.blocks:
        for binding in block.bindings:
            var, value = binding.var, binding.value
            if isinstance(value, relax.Var):  # an alias, as dataflow outputs are
                var_names[var] = var_names[value]
                continue
            if isinstance(value, relax.Tuple) and var.same_as(main.body.body):
                returned = list(value.fields)
                continue
            node = _composite(mod, binding, var_names) or _float_node(binding, var_names, inputs, tensors)
            output = add_tensor(var, node.name)
            nodes.append(
                Node(
                    output if node.kind == "float" else node.name,
                    node.kind,
                    node.inputs,
                    output,
                    node.workload,
                    node.weight,
                    node.bias,
                    node.candidates,
                    binding,
                )
            )
    body = main.body.body
    is_tuple = bool(returned) or isinstance(body, relax.Tuple)
    if isinstance(body, relax.Tuple):
        returned = list(body.fields)
    outputs = []
    for result in returned if is_tuple else [body]:
        if isinstance(result, tvm.ir.GenericConst):  # a result that no input decides is a node like any other
            var = relax.Var("constant", result.ty)
            name = add_tensor(var, "constant")
            nodes.append(Node(name, "float", (), name, binding=relax.VarBinding(var, result)))
            result = var
        outputs.append(var_names[result])
    loop_nests = {g: f for g, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    return Graph(tuple(nodes), tensors, inputs, tuple(outputs), is_tuple, tuple(main.params), var_names, loop_nests)


class _Names:
    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        name, n = wanted, 1
        while name in self._taken:
            name, n = f"{wanted}_{n}", n + 1
        self._taken.add(name)
        return name


def _main(mod: tvm.IRModule) -> relax.Function:
    try:
        main = mod["main"]
    except (KeyError, ValueError) as e:
        raise UnsupportedModelError("the module has no function `main`; name the network's function so") from e
    if not isinstance(main.body, relax.SeqExpr):
        raise UnsupportedModelError("main must be in normal form (a sequence of bindings); run Normalize first")
    return main


def _static_type(var: relax.Var, name: str) -> tuple[tuple[int, ...], str]:
    ty = var.ty
    if not isinstance(ty, relax.TensorType):
        return (), "object"  # tuples and shapes live only between float operators
    if ty.shape is None or not all(isinstance(d, (int, tvm.tirx.IntImm)) for d in ty.shape.values):
        raise UnsupportedModelError(f"tensor {name!r} has no static shape; fix it with --batch or input shapes")
    return tuple(int(d) for d in ty.shape.values), str(ty.dtype)


def _composite(mod: tvm.IRModule, binding: relax.VarBinding, var_names: dict[relax.Var, str]) -> Node | None:
    call = binding.value
    if not (isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.GlobalVar)):
        return None
    function = mod[call.op]
    attrs = function.attrs
    if attrs is None or "mpq.kind" not in attrs:
        return None
    kind = str(attrs["mpq.kind"])
    workload = Workload.from_json(json.loads(str(attrs["mpq.workload"]))) if "mpq.workload" in attrs else None
    activations = [a for a in call.args if isinstance(a, relax.Var)]
    constants = [a.value.numpy() for a in call.args if not isinstance(a, relax.Var)]
    weight = bias = None
    if kind in WEIGHTED_KINDS or kind == "recurrent":
        weight, bias = constants
        if kind == "linear":
            weight = weight[:, None, None, :]
    candidates = tuple(str(attrs["mpq.candidates"]).split()) if "mpq.candidates" in attrs else ()
    inputs = tuple(var_names[a] for a in activations)
    return Node(str(attrs["mpq.name"]), kind, inputs, "", workload, weight, bias, candidates)


def _float_node(
    binding: relax.VarBinding, var_names: dict[relax.Var, str], inputs: tuple[str, ...], tensors: dict[str, GraphTensor]
) -> Node:
    used = [v for v in relax.analysis.free_vars(binding.value) if v in var_names]
    names = tuple(dict.fromkeys(var_names[v] for v in used))
    layout = _input_layout(binding.value, names, inputs, tensors)
    return Node(binding.var.name, "layout" if layout else "float", names, "", layout)


def _input_layout(
    value: relax.Expr, names: tuple[str, ...], inputs: tuple[str, ...], tensors: dict[str, GraphTensor]
) -> ConvertWorkload | None:
    """[N, C, H, W] -> [N, H, W, C] or [N, C, W] -> [N, W, C] of a float32 input, which quantization can swallow."""
    if not (
        isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == "relax.permute_dims"
    ):
        return None
    if len(names) != 1 or names[0] not in inputs or tuple(map(int, value.attrs.axes or ())) not in _CHANNELS_LAST:
        return None
    source = tensors[names[0]]
    if source.dtype != "float32":
        return None
    n, c, *positions = source.shape
    return ConvertWorkload((n, *positions, c), 32, 32, channels_first=True)
