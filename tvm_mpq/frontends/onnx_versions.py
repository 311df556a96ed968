"""Operators written in an old version become nodes of one that TVM's importer reads.

TVM takes its oldest version for whatever is older, without a word: a Slice of opset 9 (attributes) is read as one of
opset 13 (inputs). Each node is brought to a version that TVM has, alone, so that the rest of the graph stays what the
user wrote: by ONNX's own converter, and by ours where that refuses or keeps the old form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from tvm_mpq.frontends.onnx_nodes import (
    STANDARD,
    ConstantTensors,
    TensorTypes,
    VersionedNode,
    attribute,
    renamed,
    schema_of,
)
from tvm_mpq.frontends.onnx_write import OPSET as _MODERN

_ALIGNED = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Greater", "Less", "Equal", "PRelu")
"""Operators that lined up their second operand by an attribute `axis` before opset 7."""


@cache
def tvm_versions(op_type: str) -> tuple[int, ...]:
    """Versions of the operator for which TVM's importer has code, oldest first; () for an operator that it lacks."""
    converter = _get_convert_map().get(op_type)
    names = [n for n in dir(converter) if n.startswith("_impl_v")] if converter is not None else []
    return tuple(sorted(int(n.removeprefix("_impl_v")) for n in names))


def modernized(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[VersionedNode] | None:
    """The same in nodes that TVM reads; None for a node that may stay as it is."""
    if item.node.domain not in STANDARD:
        return None
    ours = _OURS.get(item.node.op_type)
    if ours is not None and item.opset < ours[0]:
        nodes = ours[1](item.node, types, constants)
        return None if nodes is None else [VersionedNode(n, _MODERN, item.source) for n in nodes]
    known = tvm_versions(item.node.op_type)
    if not known or item.opset >= known[0] or _means_the_same(item, known[0]):
        return None
    return _converted(item, known[0], types, constants)


def _means_the_same(item: VersionedNode, version: int) -> bool:
    """Whether all attributes of the node exist in that version too."""
    schema = schema_of(item.node, version)
    return schema is not None and all(a.name in schema.attributes for a in item.node.attribute)


def _converted(
    item: VersionedNode, wanted: int, types: TensorTypes, constants: ConstantTensors
) -> list[VersionedNode] | None:
    """By ONNX's version converter; None where it refuses."""
    node = item.node
    operands = list(dict.fromkeys(filter(None, node.input)))
    inputs = [onnx.ValueInfoProto(name=n, type=types[n]) for n in operands if n in types and n not in constants]
    outputs = [onnx.ValueInfoProto(name=n, type=types.get(n)) for n in node.output if n]
    held = [constants[n] for n in operands if n in constants]
    graph = helper.make_graph([node], "node", inputs, outputs, held)
    try:
        model = version_converter.convert_version(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", item.opset)]), wanted
        )
    except (version_converter.ConvertError, RuntimeError):  # the importer then speaks about the node
        return None
    nodes = [
        helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer if t.name not in operands
    ]
    outer = {*node.input, *node.output}
    prefix = next(name for name in node.output if name)
    nodes = renamed([*nodes, *model.graph.node], lambda name: name if name in outer else f"{prefix}/{name}")
    return [VersionedNode(n, wanted, item.source) for n in nodes]


def _held(node: onnx.NodeProto, name: str, value: np.ndarray) -> onnx.NodeProto:
    """A Constant beside the node."""
    return helper.make_node("Constant", [], [f"{node.output[0]}/{name}"], value=numpy_helper.from_array(value))


def _integers(node: onnx.NodeProto, name: str) -> np.ndarray | None:
    found = attribute(node, name)
    return None if found is None else np.array(found, np.int64).reshape(-1)


def _slice(node: onnx.NodeProto, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto]:
    """Before opset 10 bounds were attributes."""
    starts, ends, axes = (_integers(node, name) for name in ("starts", "ends", "axes"))
    assert starts is not None and ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    held = [_held(node, n, v) for n, v in (("starts", starts), ("ends", ends), ("axes", axes))]
    return [*held, helper.make_node("Slice", [node.input[0], *(h.output[0] for h in held)], node.output)]


def _top_k(node: onnx.NodeProto, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto]:
    """Before opset 10 `k` was an attribute; the largest came first then and in opset 10."""
    axis = int(str(attribute(node, "axis", -1)))
    k = _integers(node, "k")
    held = [] if k is None else [_held(node, "k", k)]
    count = held[0].output[0] if held else node.input[1]
    return [*held, helper.make_node("TopK", [node.input[0], count], node.output, axis=axis)]


def _resize(node: onnx.NodeProto, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """Upsample, and Resize of opset 10: pixels are where their index says, and nearest rounds down."""
    if node.op_type == "Resize" and len(node.input) != 2:
        return None
    mode = attribute(node, "mode", b"nearest")
    scales = attribute(node, "scales")
    if scales is None and attribute(node, "height_scale") is not None:
        scales = [1.0, 1.0, attribute(node, "height_scale"), attribute(node, "width_scale")]
    held = [] if scales is None else [_held(node, "scales", np.array(scales, np.float32))]
    by = held[0].output[0] if held else node.input[1]
    return [
        *held,
        helper.make_node(
            "Resize",
            [node.input[0], "", by],
            node.output,
            mode=b"linear" if mode == b"bilinear" else mode,
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]


def _aligned(node: onnx.NodeProto, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """The second operand's first axis stands at `axis` of the first one's; axes of length 1 go behind it."""
    if not attribute(node, "broadcast", 0):
        return None
    ranks = [len(types[n].tensor_type.shape.dim) if n in types else 0 for n in node.input]
    axis = int(str(attribute(node, "axis", ranks[0] - ranks[1])))
    behind = ranks[0] - (axis % max(ranks[0], 1)) - ranks[1]
    plain = helper.make_node(node.op_type, node.input, node.output)
    if behind <= 0:
        return [plain]
    axes = _held(node, "axes", np.arange(ranks[1], ranks[1] + behind))
    wide = f"{node.output[0]}/second"
    plain.input[1] = wide
    return [axes, helper.make_node("Unsqueeze", [node.input[1], axes.output[0]], [wide]), plain]


_Rewrite = Callable[[onnx.NodeProto, TensorTypes, ConstantTensors], list[onnx.NodeProto] | None]

_OURS: dict[str, tuple[int, _Rewrite]] = {
    "Slice": (10, _slice),
    "TopK": (11, _top_k),
    "Upsample": (100, _resize),
    "Resize": (11, _resize),
    **dict.fromkeys(_ALIGNED, (7, _aligned)),
}
"""Operator -> the opset from which it needs no rewriting of ours, and the rewriting."""
