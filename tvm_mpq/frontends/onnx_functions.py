"""ONNX functions: model-local ones are inlined, and operators that TVM lacks become the body their schema gives.

A schema's body may depend on attributes and on the types of the inputs (LayerNormalization, Attention, the losses):
ONNX then makes it from node and types, so bodies are asked for one node at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import defs, helper
from onnx.inliner import inline_local_functions

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.checks import one_line
from tvm_mpq.frontends.onnx_nodes import STANDARD, VersionedNode, all_nodes, renamed, schema_of

_CALL = "org.tvm_mpq.body"  # a domain of which the inliner knows nothing but the one function to inline

MICROSOFT = frozenset(
    ["Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu"]
    + ["QuickGelu", "SkipLayerNormalization"]
)
"""Operators of the domain com.microsoft that are read, beside those that are quantized."""


def inlined(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """The model without functions of its own.

    Raises
    ------
    UnsupportedModelError
        If they cannot be inlined.
    """
    if not model.functions:
        return model
    try:
        return inline_local_functions(model)
    except Exception as e:
        raise UnsupportedModelError(f"{what}: the model's own functions cannot be inlined: {one_line(e)}") from e


def check_domains(model: onnx.ModelProto, what: str) -> None:
    """Refuse operators of domains that nobody here defines, also where a standard operator has their name.

    Raises
    ------
    UnsupportedModelError
        Naming the first.
    """
    for node in all_nodes(model.graph):
        if node.domain in STANDARD or (node.domain == "com.microsoft" and node.op_type in MICROSOFT):
            continue
        version = next((int(o.version) for o in model.opset_import if o.domain == node.domain), 1)
        schema: Any = schema_of(node, version)
        if schema is not None and (schema.has_function or schema.has_context_dependent_function):
            continue
        raise UnsupportedModelError(
            f"{what}: unknown operator {node.domain}::{node.op_type} (node {node.name or node.output[0]!r}); "
            "only operators of ONNX's own domain are known: write it with those, or as a function in the model"
        )


def body_of(item: VersionedNode, types: Mapping[str, onnx.TypeProto]) -> list[VersionedNode] | None:
    """The nodes that compute what `item` does, by its schema; None when the schema has no body for these types."""
    function = _function(item, types)
    if function is None:
        return None
    node = item.node
    call = helper.make_node(function.name, [], [], domain=_CALL)
    call.input.extend(node.input)
    call.output.extend(node.output)
    call.attribute.extend(_attributes(item))
    inputs = [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(node.input) if n]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    imports = [*function.opset_import, helper.make_opsetid(_CALL, 1)]
    caller = helper.make_model(
        helper.make_graph([call], "call", inputs, outputs), opset_imports=imports, functions=[function]
    )
    nodes = list(inline_local_functions(caller).graph.node)
    outer = {*node.input, *node.output}
    prefix = next(name for name in node.output if name)
    versions = {o.domain: int(o.version) for o in function.opset_import}
    return [
        VersionedNode(n, versions.get("" if n.domain in STANDARD else n.domain, item.opset), item.source)
        for n in renamed(nodes, lambda name: name if name in outer else f"{prefix}/{name}")
    ]


def _attributes(item: VersionedNode) -> list[onnx.AttributeProto]:
    """Those of the node, and the defaults of the others, which a body may read and the inliner does not know."""
    schema: Any = schema_of(item.node, item.opset)
    given = {a.name for a in item.node.attribute}
    defaults = (a.default_value for a in schema.attributes.values() if a.name not in given)
    return [*item.node.attribute, *(a for a in defaults if a.name)]


def _function(item: VersionedNode, types: Mapping[str, onnx.TypeProto]) -> onnx.FunctionProto | None:
    schema: Any = schema_of(item.node, item.opset)  # the package's own types lack what concerns functions
    if schema is None:
        return None
    data = b""
    if schema.has_function:
        known = [v for v in schema.function_opset_versions if v <= item.opset]
        data = schema.get_function_with_opset_version(max(known)) if known else b""
    elif schema.has_context_dependent_function:
        known = [v for v in schema.context_dependent_function_opset_versions if v <= item.opset]
        given = [types.get(name, onnx.TypeProto()).SerializeToString() for name in item.node.input]
        make = schema.get_context_dependent_function_with_opset_version
        data = make(max(known), item.node.SerializeToString(), given) if known else b""
    if not data:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    function.domain, function.name = _CALL, function.name or item.node.op_type
    if not any(o.domain in STANDARD for o in function.opset_import):  # of the newest version, in another domain
        opset = item.opset if item.node.domain in STANDARD else defs.onnx_opset_version()
        function.opset_import.append(helper.make_opsetid("", opset))
    if not function.input:  # a builder leaves these to the schema
        function.input.extend(i.name for i in schema.inputs)
        function.output.extend(o.name for o in schema.outputs)
    return function
