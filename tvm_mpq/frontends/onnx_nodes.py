"""Nodes of ONNX graphs on their way to TVM's importer: with the version they are written in, and renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import defs, helper

STANDARD = ("", "ai.onnx")
"""The names of ONNX's own domain."""

TensorTypes = Mapping[str, onnx.TypeProto]
ConstantTensors = Mapping[str, onnx.TensorProto]


@dataclass(frozen=True)
class VersionedNode:
    """node: may be changed by nobody; opset: of the node's domain; source: what the model calls the operator."""

    node: onnx.NodeProto
    opset: int
    source: str


def schema_of(node: onnx.NodeProto, opset: int) -> defs.OpSchema | None:
    """ONNX's definition of the operator in that version; None when there is none."""
    domain = "" if node.domain in STANDARD else node.domain
    try:
        return defs.get_schema(node.op_type, opset, domain)
    except defs.SchemaError:
        return None


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The attribute's value; `default` when the node has none of this name."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs that the node holds: branches and bodies."""
    for a in node.attribute:
        if a.type == onnx.AttributeProto.GRAPH:
            yield a.g
        yield from a.graphs


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The graph's nodes and those of the graphs within them."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that the node reads, also from within its subgraphs."""
    yield from filter(None, node.input)
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from names_read(inner)
        yield from (o.name for o in graph.output)


def renamed(nodes: Iterable[onnx.NodeProto], new: Callable[[str], str]) -> list[onnx.NodeProto]:
    """Copies whose tensors are called `new(name)`, within subgraphs too."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        _rename(copy, new)
        copies.append(copy)
    return copies


def _rename(node: onnx.NodeProto, new: Callable[[str], str]) -> None:
    for tensors in (node.input, node.output):
        tensors[:] = [new(name) if name else "" for name in tensors]
    for graph in subgraphs(node):
        for inner in graph.node:
            _rename(inner, new)
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name = new(value.name)


def tensors_with_data(values: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that the graph holds: initializers and attributes, within subgraphs too."""
    yield from values.initializer
    for node in values.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.TENSOR:
                yield a.t
            yield from a.tensors
        for inner in subgraphs(node):
            yield from tensors_with_data(inner)


def static_dims(of: onnx.TypeProto | None) -> tuple[int, ...] | None:
    """The tensor's sizes; None when one is unknown."""
    if of is None or not of.HasField("tensor_type") or not of.tensor_type.HasField("shape"):
        return None
    dims = of.tensor_type.shape.dim
    return tuple(int(d.dim_value) for d in dims) if all(d.HasField("dim_value") for d in dims) else None
