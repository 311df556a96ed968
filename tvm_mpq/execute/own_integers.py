"""Numbers of a file that was quantized elsewhere, for the network that our passes made of it.

The file speaks of its own tensors; passes have fused operators and left only some. A source variable belongs to the
last operator of the graph among its origins. Where nothing of that operator comes after it, it is the operator's
result; where only an activation does, it is what the activation reads. Nothing is fused into an operator without a
template: arithmetic behind one that is no operator itself has gone into a later one's weights, and exists no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.frontends import Loaded
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.conv import least_scale
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.schema import Precision, StoredQuantization, TensorQuant

_BITS = 8
_MOVING = frozenset(f"relax.{n}" for n in ("reshape", "permute_dims", "squeeze", "expand_dims", "flatten", "split"))
_EXACT = 1e-3  # of a step: float32 products of codes and scales are nearer, folded ones far


@dataclass(frozen=True)
class OwnIntegers:
    """ranges: tensor of the graph, or `operator:pre` -> how the file rounds it. codes: of its weights, of 8 bits."""

    ranges: Mapping[str, TensorQuant] = field(default_factory=dict)
    codes: WeightCodes = field(default_factory=WeightCodes)

    @property
    def digest(self) -> str:
        """Empty when there are none."""
        if not self.ranges and not self.codes:
            return ""
        text = repr(sorted(self.ranges.items())) + self.codes.digest
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def over(self, found: Mapping[str, list[TensorQuant]]) -> dict[str, list[TensorQuant]]:
        """Calibrated ranges, with the file's at 8 bits in their place."""
        return {
            name: [self.ranges.get(name, q) if q.bits == _BITS else q for q in quants] for name, quants in found.items()
        }

    def covers(self, graph: Graph) -> bool:
        """Whether no range of 8 bits is left to find."""
        return not graph.states() and all(name in self.ranges for name in graph.integer_tensors())

    def codes_of(self, operators: Mapping[str, str]) -> WeightCodes:
        """Those that these precisions (operator -> text) ask for."""
        asked = {name for name, text in operators.items() if _is_8_bit(text)}
        return WeightCodes({key: w for key, w in self.codes.items() if key[0] in asked})


def _is_8_bit(text: str) -> bool:
    precision = Precision.parse(text)
    return not precision.is_float and precision.weight_bits == _BITS


def own_integers(loaded: Loaded, graph: Graph) -> OwnIntegers:
    """What of `loaded.stored` applies to `graph`, which was made of `loaded.mod`."""
    stored = loaded.stored
    if stored is None:
        return OwnIntegers()
    source = _Source(loaded.mod, graph)
    ranges = _ranges(stored, source, graph)
    codes = {}
    for variable, scales in stored.weights.items():
        node = source.node_of(variable)
        if node is None or node.weight is None:
            continue
        read = ranges.get(graph.quant_root(node.inputs[0]))
        found = None if read is None else _codes(node, scales, read)
        if found is not None:
            codes[node.name] = found
    return OwnIntegers(ranges, WeightCodes(codes))


def _ranges(stored: StoredQuantization, source: _Source, graph: Graph) -> dict[str, TensorQuant]:
    found: dict[str, TensorQuant] = {}
    inner: dict[str, TensorQuant] = {}
    for variable, quant in stored.tensors.items():
        node = source.node_of(variable)
        if variable in graph.inputs:
            found[variable] = quant
        elif node is not None and source.is_result(variable):
            found[node.output] = quant
        elif node is not None and source.feeds_activation_only(variable):
            inner[node.name] = quant
    nodes = {n.name: n for n in graph.nodes}
    for name, quant in inner.items():
        if is_clamp(getattr(nodes[name].workload, "activation", "none")):
            found.setdefault(nodes[name].output, quant)  # a clamp of rounded values rounds alike
        else:
            found[f"{name}:pre"] = quant
    for node in graph.nodes:  # an input's range holds behind its change of layout
        if node.kind == "layout" and node.inputs[0] in found:
            found.setdefault(node.output, found[node.inputs[0]])
    for name in [n for n in found if n in graph.tensors]:
        found.setdefault(graph.quant_root(name), found[name])
    return found


def _codes(node: Node, scales: Iterable[float], read: TensorQuant) -> QuantizedWeight | None:
    """The weight's integers; None where passes changed it (a folded batch norm), or it has others than our kernels.

    A channel whose bias needs more than 30 bits beside its scale gets a larger one; such channels are as good as empty.
    """
    assert node.weight is not None
    given = np.array(tuple(scales), np.float32)
    channels = len(node.weight)
    if given.size not in (1, channels):
        return None
    whole: FloatArray = np.ascontiguousarray(np.broadcast_to(given, (channels,)))
    steps = node.weight / whole.reshape(-1, *[1] * (node.weight.ndim - 1))
    rounded = np.rint(steps)
    low, high = weight_range(_BITS)
    if not np.all(whole > 0) or np.abs(steps - rounded).max(initial=0) > _EXACT or np.abs(rounded).max(initial=0) > 128:
        return None
    bias = np.zeros(channels, np.float32) if node.bias is None else node.bias
    raised = np.maximum(whole, least_scale(bias, read.scale))
    rounded = np.rint(node.weight / raised.reshape(-1, *[1] * (node.weight.ndim - 1)))
    return QuantizedWeight(np.clip(rounded, low, high).astype(np.int8), raised, _BITS)


class _Source:
    """The imported module's variables: which operator of the graph each belongs to, and who reads it."""

    def __init__(self, mod: tvm.IRModule, graph: Graph) -> None:
        self._nodes = [n for n in graph.nodes if n.kind != "layout"]
        places = {n.name: i for i, n in enumerate(self._nodes)}
        plain = {i for i, n in enumerate(self._nodes) if n.kind == "float"}
        self._owner: dict[str, int] = {}
        self._readers: dict[str, list[str]] = {}
        self._vector: dict[str, bool] = {}
        main = mod["main"]
        returned = {str(v.name) for v in relax.analysis.free_vars(main.body.body)}
        for block in main.body.blocks:
            for binding in block.bindings:
                name = str(binding.var.name)
                used = [str(v.name) for v in relax.analysis.free_vars(binding.value)]
                owners = [self._owner[u] for u in used if u in self._owner]
                if name in places:
                    self._owner[name] = places[name]
                elif owners and (max(owners) not in plain or _moves(binding.value)):
                    self._owner[name] = max(owners)
                for u in used:
                    self._readers.setdefault(u, []).append(name)
                self._vector[name] = _reads_vector(binding.value)
        for name in returned:
            self._readers.setdefault(name, []).append("")

    def node_of(self, variable: str) -> Node | None:
        place = self._owner.get(variable)
        return None if place is None else self._nodes[place]

    def is_result(self, variable: str) -> bool:
        own = self._owner[variable]
        return all(self._owner.get(reader) != own for reader in self._readers.get(variable, []))

    def feeds_activation_only(self, variable: str) -> bool:
        """What comes after it within the operator adds no bias and no other tensor."""
        own, after = self._owner[variable], {variable}
        for name in self._owner:  # in order
            if self._owner[name] == own and any(name in self._readers.get(a, []) for a in after):
                if self._vector[name]:
                    return False
                after.add(name)
        inner = [name for name in after if name != variable]
        sources = {u for u, readers in self._readers.items() if any(n in readers for n in inner)}
        return sources <= after


def _moves(value: relax.Expr) -> bool:
    """Whether a binding gives values of its operand, as they are."""
    if isinstance(value, relax.Var | relax.Tuple | relax.TupleGetItem):
        return True
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") in _MOVING


def _reads_vector(value: relax.Expr) -> bool:
    """Whether a call reads a constant of more than one element."""
    found = False

    def visit(e: relax.Expr) -> None:
        nonlocal found
        if isinstance(e, tvm.ir.GenericConst) and e.value.numpy().size > 1:
            found = True

    relax.analysis.post_order_visit(value, visit)
    return found
