"""One walk over an ONNX graph of fixed input shapes: what is constant is computed, what TVM lacks is expanded.

Nodes are visited in order, each with the types and constant values of all it reads. What a rewriting puts in a node's
place is visited in turn, so that the shape arithmetic within a function's body folds like any other.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.checks import GenericArray, one_line, refusing
from tvm_mpq.frontends.onnx_branches import branches, is_if
from tvm_mpq.frontends.onnx_fold import evaluated
from tvm_mpq.frontends.onnx_functions import body_of
from tvm_mpq.frontends.onnx_loop import peeled
from tvm_mpq.frontends.onnx_nodes import (
    STANDARD,
    VersionedNode,
    attribute,
    names_read,
    schema_of,
    static_dims,
)
from tvm_mpq.frontends.onnx_rewrites import rewritten
from tvm_mpq.frontends.onnx_scan import unrolled
from tvm_mpq.frontends.onnx_versions import modernized

Expanded = Callable[[VersionedNode, dict[str, onnx.TypeProto]], bool]
"""Whether a node's operator should be replaced by its schema's function body."""


@dataclass(frozen=True)
class Walked:
    """nodes: what is left of the graph; constants: what they and the outputs read of those; types: of all tensors;
    notes: what a user must know of what was left out."""

    nodes: list[VersionedNode]
    constants: dict[str, onnx.TensorProto]
    types: dict[str, onnx.TypeProto]
    notes: list[str]


class Walk:
    """Parameters: the graph, whose inputs have their final types; versions: domain to opset; names: of its nodes."""

    def __init__(self, graph: onnx.GraphProto, versions: dict[str, int], names: list[str], expand: Expanded) -> None:
        self._expand = expand
        self._versions = versions
        self._constants = {t.name: t for t in graph.initializer}
        self._types = {v.name: v.type for v in graph.input if v.name not in self._constants}
        self._types.update({t.name: _type_of(t) for t in graph.initializer})
        self._outputs = [o.name for o in graph.output]
        self._notes: list[str] = []
        self._strict = False  # whether sizes that do not fit are an error
        self._todo = deque(
            VersionedNode(n, versions.get("" if n.domain in STANDARD else n.domain, 1), name)
            for n, name in zip(graph.node, names, strict=True)
        )

    def run(self) -> Walked:
        """Visit every node."""
        nodes = self._alive(self._visited())
        read = {n for item in nodes for n in names_read(item.node)} | set(self._outputs)
        return Walked(nodes, {n: t for n, t in self._constants.items() if n in read}, self._types, self._notes)

    def _visited(self) -> list[VersionedNode]:
        """The nodes that stay, alive or not."""
        kept: list[VersionedNode] = []
        while self._todo:
            item = self._todo.popleft()
            with refusing(f"operator {item.node.op_type} (node {item.source!r}) cannot be read"):
                if self._stays(item):
                    kept.append(item)
        return kept

    def _stays(self, item: VersionedNode) -> bool:
        """Whether the node goes to the importer as it is; what takes its place, if anything, is visited next."""
        self._infer(item)
        if self._folded(item):
            return False
        instead: list[VersionedNode] | None
        if is_if(item):
            instead = branches(item, self._types, self._constants, self._versions, self._fits, self._notes.append)
        else:
            instead = self._joined(item)
        if instead is None:
            sizes = {name: static_dims(self._types.get(name)) for name in item.node.input}
            instead = unrolled(item, sizes, self._versions) or peeled(item, self._constants, self._versions)
        if instead is None:
            instead = modernized(item, self._types, self._constants)
        if instead is None:
            instead = rewritten(item, self._types, self._constants)
        if instead is None and self._expand(item, self._types):
            instead = body_of(item, self._types)
        if instead is not None:
            self._todo.extendleft(reversed(instead))
        return instead is None

    def _fits(self, nodes: list[VersionedNode]) -> bool:
        """Whether these nodes can run here, as far as their shapes tell."""
        trial = copy.copy(self)
        trial._types, trial._constants = dict(self._types), dict(self._constants)
        trial._todo, trial._notes, trial._strict = deque(nodes), [], True
        try:
            trial._visited()
        except UnsupportedModelError:
            return False
        return True

    def _folded(self, item: VersionedNode) -> bool:
        """Compute the node if all it reads is known: constants, or shapes."""
        if any(self._bytes(name) > _LARGEST for name in item.node.output):
            return False
        results = (
            self._shape(item.node) or self._nothing(item.node) or evaluated(item.node, self._constants, item.opset)
        )
        if results is None:
            return False
        for name, value in results.items():
            tensor = numpy_helper.from_array(value, name)
            self._constants[name], self._types[name] = tensor, _type_of(tensor)
        return True

    def _bytes(self, name: str) -> int:
        """Size of a tensor; 0 where its type is not known."""
        of = self._types.get(name)
        dims = static_dims(of)
        if of is None or dims is None:
            return 0
        return int(np.prod(dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(of.tensor_type.elem_type).itemsize

    def _shape(self, node: onnx.NodeProto) -> dict[str, GenericArray] | None:
        if node.op_type not in ("Shape", "Size") or node.domain not in STANDARD:
            return None
        dims = static_dims(self._types.get(node.input[0]))
        if dims is None:
            return None
        if node.op_type == "Size":
            return {node.output[0]: np.array(np.prod(dims, dtype=np.int64))}
        start, end = (attribute(node, name, default) for name, default in (("start", 0), ("end", len(dims))))
        return {node.output[0]: np.array(dims[int(str(start)) : int(str(end))], np.int64)}

    def _nothing(self, node: onnx.NodeProto) -> dict[str, GenericArray] | None:
        """Results that have no elements are known, whatever the node reads."""
        if any(name and not self._is_empty(name) for name in node.output):
            return None
        types = {name: self._types[name].tensor_type for name in node.output if name}
        return {
            name: np.zeros([d.dim_value for d in of.shape.dim], helper.tensor_dtype_to_np_dtype(of.elem_type))
            for name, of in types.items()
        }

    def _is_empty(self, name: str) -> bool:
        return 0 in (static_dims(self._types.get(name)) or ())

    def _joined(self, item: VersionedNode) -> list[VersionedNode] | None:
        """A Concat of what has elements, where some of its operands have none."""
        node = item.node
        filled = [name for name in node.input if not self._is_empty(name)]
        if node.op_type != "Concat" or node.domain not in STANDARD or len(filled) == len(node.input):
            return None
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.input[:] = filled
        return [VersionedNode(plain, item.opset, item.source)]

    def _infer(self, item: VersionedNode) -> None:
        """Types of the node's results; none for those that only a run would tell."""
        node, schema = item.node, schema_of(item.node, item.opset)
        known = all(n in self._types for n in node.input if n)
        if schema is None or not known or not schema.has_type_and_shape_inference_function:
            return
        operands = [n for n in node.input if n]
        held = {n: self._constants[n] for n in operands if n in self._constants}
        small = {n: t for n, t in held.items() if np.prod(t.dims, dtype=np.int64) <= _SHAPE_VALUES}
        try:
            found = shape_inference.infer_node_outputs(
                schema,
                node,
                {n: self._types[n] for n in operands},
                small,
                opset_imports=[helper.make_opsetid(node.domain, item.opset)],
            )
        except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as e:
            if self._strict:
                raise UnsupportedModelError(f"sizes do not fit: {one_line(e)}") from e
            return  # the importer then tells
        self._types.update({n: t for n, t in found.items() if n})

    def _alive(self, kept: list[VersionedNode]) -> list[VersionedNode]:
        """Without nodes of whose results nobody reads any."""
        read = set(self._outputs)
        alive = []
        for item in reversed(kept):
            if read.intersection(item.node.output):
                read.update(names_read(item.node))
                alive.append(item)
        return alive[::-1]


_SHAPE_VALUES = 1024  # elements; what tells a shape has a few

_LARGEST = 1 << 28  # bytes; a larger result of constants (an Expand, a Range) is computed when the network runs


def _type_of(tensor: onnx.TensorProto) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
